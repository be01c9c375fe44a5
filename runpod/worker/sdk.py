"""RunPod's SDK (1.12): how this worker uses it, and the one file that knows more of it than its documentation says.

As documented: `runpod.serverless.start(config)` runs the worker; `config` is a whole one (an asynchronous generator as
the handler, `concurrency_modifier`, `return_aggregate_stream`), with which the SDK's local ways of running it work.

Replaced: the loop that takes jobs and posts what they yield (`rp_scale.JobScaler`, `rp_job.handle_job`). It cannot be
told to lose nothing: a chunk or a result that meets a 429, a reset or a fourth 5xx is logged and dropped, and the job
is COMPLETED without it; one odd item in a batch ends all jobs of the worker; a change of size at the end takes jobs
again; an end waits for idle polls up to 90 s. `start` below puts our own loop in the place of that one class. What
surrounds it stays the SDK's: arguments, fitness checks, the ping process and the list of jobs that it reports, the
session with its key, the addresses of all calls, the stop channel.

The SDK is pinned to one minor version (pyproject.toml): read this file again before that is raised.
"""

from __future__ import annotations

import asyncio
import enum
import gc
import os
import signal
import urllib.parse
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

# As the SDK: longer than the platform holds a poll.
POLL_S = 90.0


class Call(enum.Enum):
    """What is posted: a part of a stream, or how a job ended. The value is the template's name in the SDK."""

    CHUNK = "JOB_STREAM_URL"
    RESULT = "JOB_DONE_URL"


# How long a post may take; the SDK would wait for ten minutes. RunPod's gateway gives up after a minute. A result that
# is not answered is sent again, so that it need not wait for that.
POST_S = {Call.CHUNK: 60.0, Call.RESULT: 20.0}


class NotSent(Exception):
    """A post that never left: there was no connection. It can be repeated."""


class Unanswered(Exception):
    """A post that left and got no answer: the platform may have it or not."""


class TooManyRequests(Exception):
    """The platform wants to be asked less often."""


def load() -> Any:
    """Import RunPod's SDK, set up as this worker needs it; return the package."""
    # Its checks come after vLLM has taken the GPU, and would import torch beside it, connect to a public address and
    # want a tenth of the disk free with the weights on it. Ours ran before vLLM was started.
    os.environ["RUNPOD_SKIP_AUTO_SYSTEM_CHECKS"] = "true"
    os.environ["RUNPOD_SKIP_GPU_CHECK"] = "true"
    # Its default, DEBUG, logs every prompt and every chunk.
    os.environ.setdefault("RUNPOD_LOG_LEVEL", "INFO")
    import runpod.serverless  # type: ignore[import-untyped]
    import uvloop

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # a fifth less CPU for each post
    os.register_at_fork(after_in_child=_die_with_the_worker)
    # What was imported stays: never look through it again. A post leaves a few hundred objects in cycles behind.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    return runpod


def start(config: dict[str, Any], loop: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run the worker through `runpod.serverless.start`, with `loop` in place of the SDK's; return what `loop` returns.

    Where the SDK runs without a platform (one local job, its local server), `loop` is not used and 0 is returned.
    """
    import runpod.serverless
    from runpod.serverless.modules import rp_scale  # type: ignore[import-untyped]

    status = 0

    class JobScaler:
        def __init__(self, _config: dict[str, Any]) -> None:
            """Take what the SDK gives to its own class."""

        def start(self) -> None:
            """Run until the worker's end."""
            nonlocal status
            status = asyncio.run(loop())

    rp_scale.JobScaler = JobScaler
    runpod.serverless.start(config)
    return status


def _die_with_the_worker() -> None:
    """Tie the SDK's forked ping process to ours: it must not go on pinging for a worker that was killed."""
    import ctypes

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Platform:
    """The calls that a worker makes, as the SDK makes them. Use as `async with Platform() as platform:`."""

    def __init__(self) -> None:
        from runpod import http_client  # type: ignore[attr-defined]
        from runpod.serverless.modules import rp_http, rp_job, worker_state

        self._http_client, self._rp_job, self._rp_http = http_client, rp_job, rp_http
        self._in_progress = worker_state.JobsProgress()  # what the ping process reports, and the next take's flag
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = self._http_client.AsyncClientSession()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        assert self._session is not None
        await self._session.close()

    def begin(self, job_id: str) -> None:
        """Count a job as in progress."""
        self._in_progress.add(job_id)

    def end(self, job_id: str) -> None:
        """Count a job as ended."""
        self._in_progress.remove(job_id)

    async def take(self, count: int) -> bytes:
        """Wait for up to `count` jobs; return the body that holds them, empty if there are none.

        Raises TooManyRequests, or aiohttp.ClientError or TimeoutError for everything else that went wrong.
        """
        assert self._session is not None
        async with asyncio.timeout(POLL_S), self._session.get(self._rp_job._job_get_url(count)) as response:
            # 400 is what a worker gets that FlashBoot has put to sleep.
            if response.status in (HTTPStatus.NO_CONTENT, HTTPStatus.BAD_REQUEST):
                return b""
            if response.status == HTTPStatus.TOO_MANY_REQUESTS:
                raise TooManyRequests
            response.raise_for_status()
            return await response.read()  # whatever it calls itself: `read_taken` finds the jobs in it

    async def stops(self) -> list[str]:
        """Wait for jobs that are to be stopped; return their ids. Raises as `take` does."""
        if self._rp_job._job_stop_url() is None:  # an address of another form than the SDK knows
            await asyncio.Event().wait()
        try:
            async with asyncio.timeout(POLL_S):
                return list(await self._rp_job.get_stop_signals(self._session))
        except self._http_client.TooManyRequests as error:
            raise TooManyRequests from error

    async def post(self, call: Call, job_id: str, body: bytes) -> int:
        """Post one JSON body; return the status of the answer. Raises NotSent or Unanswered."""
        assert self._session is not None
        template: str = getattr(self._rp_http, call.value)
        is_stream = "true" if call is Call.RESULT else "false"  # so the SDK: a result says that chunks came before it
        url = f"{template.replace('$ID', urllib.parse.quote(job_id, safe=''))}&isStream={is_stream}"
        headers = {
            "charset": "utf-8",
            "Content-Type": "application/x-www-form-urlencoded",  # so the SDK, for JSON
            "X-Request-ID": urllib.parse.quote(job_id),
        }
        status: int | None = None
        try:
            async with asyncio.timeout(POST_S[call]), self._session.post(url, data=body, headers=headers) as response:
                # A redirect that turns a post into a GET delivers nothing.
                status = response.status if response.method == "POST" else HTTPStatus.METHOD_NOT_ALLOWED
                await response.read()
        except aiohttp.ClientConnectorError as error:
            raise NotSent(type(error).__name__) from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if status is None:  # else the answer's body was cut: nobody reads it
                raise Unanswered(type(error).__name__) from error
        return status
