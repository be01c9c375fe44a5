"""From vLLM to the platform: one request's answer, cut into as few posts as its reader will not notice.

RunPod's SDK posts each thing that a handler yields and waits for that post; a post costs about half a millisecond of
CPU, a token a few microseconds. While the SDK posts, aiohttp's own buffer gathers what vLLM sends: the next yield takes
all of it. Many streams at once wait a little longer between two posts, so that more events share one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec

from worker.departure import Departure
from worker.event_buffer import EventBuffer
from worker.job_error import JobError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from worker.job_input import Request

logger = logging.getLogger(__name__)

CHUNK_LIMIT = 480_000  # bytes; JSON escapes at most double them, and the platform takes 1 MB a chunk
ANSWER_LIMIT = 18_000_000  # bytes; the platform takes 20 MB a result, and the SDK's JSON has more blanks than vLLM's
# Up to so many streams nothing waits; from there the window grows with their number.
FREE_STREAMS = 8
FULL_STREAMS = 64
# Of each stream, so many posts leave at once. vLLM sends the role and the first token one right after the other: given
# this moment they share the first post, and the first token need not wait for the second.
EAGER_POSTS = 2
FIRST_TOKEN_S = 0.001
# vLLM closes an idle connection after 5 s; a request must not be written into one that is about to close.
KEEP_ALIVE_S = 2.0
# A broken connection is seen before the end of the process is: wait this long for the better explanation.
EXPLANATION_S = 1.0

_ERROR_EVENT = re.compile(r'^(?:data: ?(\{"error".*)|event: ?error)$', re.MULTILINE)
# How a stream that is whole ends. Routes that are not named may end as they like.
_ENDINGS = {
    "/v1/chat/completions": ("data: [DONE]",),
    "/v1/completions": ("data: [DONE]",),
    "/v1/responses": ("response.completed", "response.incomplete", "response.failed", "data: [DONE]"),
    "/v1/messages": ("message_stop", "data: [DONE]"),
}


class Relay:
    """Send requests to one vLLM and yield its answers as RunPod's SDK needs them.

    `origin` is the only address that is ever connected to. Must be used within one event loop.
    """

    def __init__(self, origin: str, *, key: str | None = None, flush: float = 0.1) -> None:
        self.origin = origin
        self._flush = flush
        self._key = key
        self._session: aiohttp.ClientSession | None = None
        self._streams = 0
        self._departure = Departure()
        self._verdict: JobError | None = None
        self._condemned = asyncio.Event()

    @property
    def condemned(self) -> bool:
        """Tell whether every request fails."""
        return self._condemned.is_set()

    def condemn(self, verdict: JobError) -> None:
        """Fail new requests with `verdict`, and those in hand when their connection breaks. The first one counts."""
        self._verdict = self._verdict or verdict
        self._condemned.set()

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def answer(self, request: Request, job_id: str) -> AsyncIterator[dict[str, Any] | str]:
        """Yield the answer: an object for one that is whole, texts of whole events for a stream.

        Whatever goes wrong is the last thing yielded: an error as an object (which fails the job), before it an event
        if the request asked for a stream.
        """
        streaming = request.stream
        try:
            if self._verdict is not None:
                raise self._verdict
            async with self._open(request, job_id) as response:
                if response.status >= 400:
                    raise JobError.from_vllm(response.status, await response.read())
                if response.content_type == "text/event-stream":
                    streaming = True
                    async for text in self._events(request.route, response):
                        yield text
                    return
                raw = await response.read()
            answer = _decode(raw)
            if len(raw) <= CHUNK_LIMIT:
                yield answer
            else:
                # Too big for a chunk, not for a result: the chunk is posted empty, and the SDK's aggregate, which
                # holds this very object, is posted when it is full.
                shell: dict[str, Any] = {}
                yield shell
                shell.update(answer)
        except JobError as error:
            if streaming and not isinstance(error, _SentError):
                yield error.as_event(request.route)
            yield error.as_output()

    @contextlib.asynccontextmanager
    async def _open(self, request: Request, job_id: str) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {"X-Request-Id": job_id} if re.fullmatch(r"[\w.-]{1,100}", job_id) else {}
        task = asyncio.current_task()
        try:
            async with self._connected().request(
                request.method, self.origin + request.route, data=request.body, headers=headers, allow_redirects=False
            ) as response:
                # The SDK does not close a generator whose job it cancels while it posts. The job's task ends then,
                # and with it this connection, by which vLLM knows that nobody reads any more.
                def hang_up(_task: object) -> None:
                    response.close()

                if task is not None:
                    task.add_done_callback(hang_up)
                try:
                    yield response
                finally:
                    if task is not None:
                        task.remove_done_callback(hang_up)
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
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EXPLANATION_S):
                await self._condemned.wait()
        if self._verdict is not None:
            return self._verdict
        logger.warning("The connection to vLLM broke: %s", type(error).__name__)
        return JobError(502, "The connection to vLLM broke before the answer was whole; send the request again.")

    async def _events(self, route: str, response: aiohttp.ClientResponse) -> AsyncIterator[str]:
        buffer = EventBuffer(CHUNK_LIMIT)
        posts = 0
        text = ""
        failure: JobError | None = None
        self._streams += 1
        try:
            while data := await response.content.readany():
                if posts == 0:
                    await asyncio.sleep(FIRST_TOKEN_S)
                    data += response.content.read_nowait()
                for text in buffer.feed(data):
                    failure = failure or _find_error(text)
                    posts += 1
                    window = self._window() if posts > EAGER_POSTS else 0.0
                    transport = response.connection.transport if window and response.connection else None
                    if transport is None:
                        yield text
                        continue
                    # Unread, events gather in the kernel, and are read at once: a read costs as much as ten events.
                    transport.pause_reading()
                    yield text
                    await self._departure.wait(window)
                    transport.resume_reading()
        finally:
            self._streams -= 1
        if failure is not None:
            raise failure
        endings = _ENDINGS.get(route)
        if buffer.pending or (endings and not any(ending in text for ending in endings)):
            raise JobError(502, "vLLM's stream ended before the answer was whole; send the request again.")

    def _window(self) -> float:
        """Return how many seconds to gather events between two posts of one stream."""
        return self._flush * min(max(0.0, (self._streams - FREE_STREAMS) / (FULL_STREAMS - FREE_STREAMS)), 1.0)


class _SentError(JobError):
    """An error whose event vLLM has sent by itself."""


def _find_error(text: str) -> JobError | None:
    match = _ERROR_EVENT.search(text) if "error" in text else None
    if match is None:
        return None
    data = match[1] or next((line[5:] for line in text[match.end() :].splitlines() if line.startswith("data:")), "")
    try:
        found = JobError.from_object(500, msgspec.json.decode(data))
    except msgspec.DecodeError:
        found = None
    found = found or JobError(500, "vLLM ended the stream with an error.")
    return _SentError(found.code, found.message, kind=found.kind, param=found.param)


def _decode(raw: bytes) -> dict[str, Any]:
    if len(raw) > ANSWER_LIMIT:
        raise JobError(413, f"The answer has {len(raw):,} bytes; the platform takes {ANSWER_LIMIT:,}: ask for less.")
    try:
        answer = msgspec.json.decode(raw)
    except msgspec.DecodeError as error:
        raise JobError(502, "vLLM's answer is not JSON.") from error
    if not isinstance(answer, dict):
        raise JobError(502, f"vLLM's answer is not an object but {type(answer).__name__}.")
    if answer.get("error"):
        # The SDK would make a Python repr of it, and drop the rest.
        raise JobError.from_object(500, answer) or JobError(500, "vLLM answered with an error.")
    return answer
