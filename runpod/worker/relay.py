"""From vLLM to the platform: one request's answer in parts, each forwarded as it comes.

While a part is posted, aiohttp's own buffer gathers what vLLM sends, and the next part holds all of it. So posts are
merged where they back up, and nowhere else: a token costs the worker less than the delay would cost its reader.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from worker.event_buffer import EventBuffer
from worker.job_error import JobError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    from worker.job_input import Request

logger = logging.getLogger(__name__)

EVENTS_LIMIT = 480_000  # bytes of a stream in one part; JSON escapes at most double them, and a post takes 1 MB
# vLLM sends the role and the first token one right after the other: given this moment they share the first post, and
# the first token need not wait until the platform has taken the role.
FIRST_TOKEN_S = 0.001
# vLLM closes an idle connection after 5 s; a request must not be written into one that is about to close.
KEEP_ALIVE_S = 2.0
# A broken connection is seen before the end of the process is: wait for the better explanation, the longer one if vLLM
# does not listen any more. Until then the job holds its place, and no other is taken for it.
EXPLANATION_S = 0.2
DEATH_S = 10.0

_ERROR_EVENT = re.compile(r'^(?:data: ?(\{"error".*)|event: ?error)$', re.MULTILINE)
# How a stream that is whole ends: with a line of its own, which no text of a model can be. Routes that are not named
# may end as they like.
_ENDINGS = {
    route: re.compile(rf"^(?:data: ?\[DONE\]{event})\r?$", re.MULTILINE)
    for route, event in {
        "/v1/chat/completions": "",
        "/v1/completions": "",
        "/v1/responses": r"|event: ?response\.(?:completed|incomplete|failed)",
        "/v1/messages": "|event: ?message_stop",
    }.items()
}


class Relay:
    """Send requests to one vLLM and yield its answers.

    `origin` is the only address that is ever connected to. `on_status` gets the status of each answer. Must be used
    within one event loop.
    """

    def __init__(
        self,
        origin: str,
        *,
        key: str | None = None,
    ) -> None:
        self.origin = origin
        self._key = key
        self.on_status: Callable[[int], None] = lambda _status: None
        self._session: aiohttp.ClientSession | None = None
        self._unanswered: set[asyncio.Timeout] = set()
        self._answers: set[aiohttp.ClientResponse] = set()
        self._verdict: JobError | None = None
        self._condemned = asyncio.Event()

    def condemn(self, verdict: JobError) -> None:
        """Fail each request that vLLM has not answered to the end, and each new one. The first verdict counts."""
        if self._verdict is not None:
            return
        self._verdict = verdict
        self._condemned.set()
        for limit in self._unanswered:
            limit.reschedule(0)
        for response in self._answers:
            if not response.content.is_eof():
                response.close()  # whoever reads it gets an error

    @property
    def in_hand(self) -> int:
        """How many requests wait for vLLM."""
        return len(self._unanswered) + sum(not response.content.is_eof() for response in self._answers)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def answer(self, request: Request, job_id: str) -> AsyncGenerator[Any, None]:
        """Yield the answer: an object or a text for one that is whole, texts of whole events for a stream.

        Raises JobError for whatever goes wrong. Leave it with `aclosing`: vLLM stops when its connection is closed.
        """
        if self._verdict is not None:
            raise self._verdict
        async with self._open(request, job_id) as response:
            self.on_status(response.status)
            if response.status >= 400:
                raise JobError.from_vllm(response.status, await response.read())
            if response.content_type == "text/event-stream":
                async for text in self._events(request.route, response):
                    yield text
                return
            raw = await response.read()
            is_json = response.content_type == "application/json"
        if raw and not is_json:  # /metrics
            yield raw.decode("utf-8", "replace")
        else:
            yield _decode(raw or b"{}")

    @contextlib.asynccontextmanager
    async def _open(self, request: Request, job_id: str) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {"X-Request-Id": job_id} if re.fullmatch(r"[\w.-]{1,100}", job_id) else {}
        url = self.origin + request.route
        try:
            async with asyncio.timeout(None) as limit:
                self._unanswered.add(limit)
                try:
                    response = await self._connected().request(
                        request.method, url, data=request.body, headers=headers, allow_redirects=False
                    )
                finally:
                    self._unanswered.discard(limit)
            async with response:
                self._answers.add(response)
                try:
                    yield response
                finally:
                    self._answers.discard(response)
        except (aiohttp.ClientError, OSError) as error:
            raise await self._explain(error) from error

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
            if self._key is not None:
                headers["Authorization"] = f"Bearer {self._key}"
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
                # No limit in time: vLLM queues by itself, and the platform's execution timeout cancels the job.
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
                headers=headers,
            )
        return self._session

    async def _explain(self, error: Exception) -> JobError:
        await self._await_verdict(EXPLANATION_S)
        if self._verdict is None and not await self._listens():
            await self._await_verdict(DEATH_S)
        if self._verdict is not None:
            return self._verdict
        logger.warning("The connection to vLLM broke: %s", type(error).__name__)
        return JobError(502, "The connection to vLLM broke before the answer was whole; send the request again.")

    async def _await_verdict(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # `wait_for` of Python 3.11 may swallow a cancellation
                await self._condemned.wait()

    async def _listens(self) -> bool:
        url = urlsplit(self.origin)
        try:
            async with asyncio.timeout(1):
                _, writer = await asyncio.open_connection(url.hostname, url.port)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True

    async def _events(self, route: str, response: aiohttp.ClientResponse) -> AsyncIterator[str]:
        buffer = EventBuffer(EVENTS_LIMIT)
        ending = _ENDINGS.get(route)
        whole = ending is None
        failure: JobError | None = None
        first = True
        while data := await response.content.readany():
            if first:
                first = False
                await asyncio.sleep(FIRST_TOKEN_S)
                data += response.content.read_nowait()
            for text in buffer.feed(data):
                failure = failure or _find_error(text)
                whole = whole or (ending is not None and ending.search(text) is not None)
                yield text
        if failure is not None:
            raise failure
        if buffer.pending or not whole:
            raise JobError(502, "vLLM's stream ended before the answer was whole; send the request again.")


def _find_error(text: str) -> JobError | None:
    match = _ERROR_EVENT.search(text) if "error" in text else None
    if match is None:
        return None
    data = match[1] or next((line[5:] for line in text[match.end() :].splitlines() if line.startswith("data:")), "")
    try:
        found = JobError.from_object(500, msgspec.json.decode(data))
    except (msgspec.DecodeError, RecursionError):
        found = None
    found = found or JobError(500, "vLLM ended the stream with an error.")
    found.sent = True
    return found


def _decode(raw: bytes) -> dict[str, Any]:
    try:
        answer = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise JobError(502, "vLLM's answer is not JSON.") from error
    if not isinstance(answer, dict):
        raise JobError(502, f"vLLM's answer is not an object but {type(answer).__name__}.")
    if answer.get("error"):
        # The SDK would make a Python repr of it, and drop the rest.
        raise JobError.from_object(500, answer) or JobError(500, "vLLM answered with an error.")
    return answer
