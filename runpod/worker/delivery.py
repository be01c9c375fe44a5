"""What a job has yielded, on its way to the platform: taken, or the job's reader learns that it was not."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from worker.job_error import JobError
from worker.sdk import Call, NotSent, Unanswered

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.sdk import Platform

logger = logging.getLogger(__name__)

# The platform's documented limits, in bytes: of one post of a stream; of a result by /runsync, and by /run.
CHUNK_LIMIT = 1_000_000
SYNC_RESULT_LIMIT = 20_000_000
RESULT_LIMIT = 10_000_000


@dataclass(frozen=True)
class Patience:
    """How long a post is repeated. All in seconds, but for `tries`; `first` and `longest` are pauses.

    A refusal (400, 403, 413) may be a stumble, too, but will not be mended by waiting: `tries` in all.
    """

    first: float = 0.25
    longest: float = 5.0
    chunk: float = 30.0
    # RunPod's default execution time. A job whose time is over sooner is named by the stop channel.
    result: float = 600.0
    tries: int = 3

    def pauses(self) -> Iterator[float]:
        """Yield the pauses between one try and the next: growing, and never the same for two workers."""
        pause = self.first
        while True:
            yield pause * random.uniform(0.5, 1.0)  # noqa: S311 (no secret)
            pause = min(2 * pause, self.longest)


class Undelivered(Exception):
    """A post that the platform did not take. `status`: what it said at last; None: nothing."""

    def __init__(self, status: int | None, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Delivery:
    """Post chunks and results, and repeat what can be repeated."""

    def __init__(self, platform: Platform, patience: Patience) -> None:
        self._platform = platform
        self._patience = patience

    async def chunk(self, job_id: str, part: bytes) -> None:
        """Post one part of a stream (JSON). Raises Undelivered.

        A status that says that it was not taken is answered by the same post again. After silence the part may have
        arrived, and a second one would double the text: that ends the stream.
        """
        body = b'{"output":%b}' % part
        await self._post(Call.CHUNK, job_id, body, self._patience.chunk, repeat_unanswered=False)

    async def result(self, job_id: str, body: bytes) -> None:
        """Post how a job ended, until that is taken or the job's time is over. Never fails: it says so in the log.

        A result that is refused for what it is gives way to an error, so that nobody waits for a job that is over.
        """
        try:
            await self._post(Call.RESULT, job_id, body, self._patience.result, repeat_unanswered=True)
        except Undelivered as error:
            logger.error("Job %s: the result was not taken: %s", job_id, error)  # noqa: TRY400 (no traceback)
            if error.status in (None, HTTPStatus.NOT_FOUND) or body.startswith(b'{"error"'):
                return
            refused = JobError(502, f"The platform did not take the answer: {error}; ask for less, or stream it.")
            await self.result(job_id, msgspec.json.encode(refused.as_output()))

    async def _post(self, call: Call, job_id: str, body: bytes, seconds: float, *, repeat_unanswered: bool) -> None:
        deadline = time.monotonic() + seconds
        refusals = 0
        for pause in self._patience.pauses():
            status: int | None = None
            try:
                status = await self._platform.post(call, job_id, body)
            except NotSent as error:
                reason = f"no connection ({error})"
            except Unanswered as error:
                reason = f"no answer ({error})"
                if not repeat_unanswered:
                    raise Undelivered(None, reason) from error
            else:
                if 200 <= status < 300:
                    return
                reason = f"HTTP {status}"
                if status not in (408, 429) and status < 500:
                    refusals += 1
                    gone = status == HTTPStatus.NOT_FOUND and call is Call.RESULT
                    if gone or refusals >= self._patience.tries:
                        raise Undelivered(status, reason)
            if time.monotonic() + pause > deadline:
                raise Undelivered(status, f"{reason} for {seconds:.0f} s")
            logger.warning("Job %s: %s at a %s: repeated", job_id, reason, call.name.lower())
            await asyncio.sleep(pause)


def result_limit(job_id: str) -> int:
    """Return how many bytes the platform takes as a job's result. The ids of /runsync tell themselves."""
    return SYNC_RESULT_LIMIT if job_id.startswith("sync-") else RESULT_LIMIT
