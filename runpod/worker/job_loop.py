"""The jobs of one worker: takes them, answers each, posts the answers, and loses none at the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import msgspec

from worker.delivery import CHUNK_LIMIT, Delivery, Patience, Undelivered, result_limit
from worker.job_error import JobError
from worker.sdk import TooManyRequests
from worker.taken import read_taken

if TYPE_CHECKING:
    from collections.abc import Iterable

    from worker.job_input import Request
    from worker.relay import Relay
    from worker.sdk import Platform
    from worker.taken import Taken

logger = logging.getLogger(__name__)

# As the SDK: pauses after a 429, and after a call that went wrong.
TOO_MANY_S = 5.0
ERROR_S = 1.0
# A platform that answers at once instead of holding the poll is asked again no sooner.
EMPTY_S = 0.25
# A job that an open poll brings later than this before the drain's end could not be finished any more.
LAST_TAKE_S = 5.0
# A poll that is given up may have begun to be answered: its jobs would be nobody's.
DELIVERY_S = 0.05
# At the end: for the posts that are under way, and then for the error of each job to reach the platform.
POSTS_S = 3.0
LAST_POSTS_S = 30.0
# For a part that the job's result will hold, too: a whole answer, or the event that tells a reader of an error.
OFFER_S = 5.0


class JobLoop:
    """Take jobs through `platform`, up to `concurrency` at a time, and answer them through `relay`.

    Use as `async with JobLoop(...) as jobs:`; leave it with `finish`.
    """

    def __init__(
        self,
        platform: Platform,
        relay: Relay,
        *,
        model: str,
        concurrency: int,
        patience: Patience | None = None,
    ) -> None:
        self._platform = platform
        self._relay = relay
        self._model = model
        self._concurrency = concurrency
        self._delivery = Delivery(platform, patience or Patience())
        self._jobs: dict[str, asyncio.Task[None]] = {}
        self._stopped: set[str] = set()  # the jobs that the platform has taken back
        self._ending: set[str] = set()  # the jobs whose result is being posted
        self._again: dict[str, Taken] = {}  # and those of them that were asked for again
        self._condemned = asyncio.Event()
        self._verdict: JobError | None = None
        self._leaving = False
        self._changed = asyncio.Event()  # a place is free, or the end has come
        self._polls: list[asyncio.Task[None]] = []
        self._complaints: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    async def __aenter__(self) -> Self:
        await self._platform.__aenter__()
        self._polls = [asyncio.create_task(poll()) for poll in (self._take_jobs, self._stop_jobs)]
        logger.info("Taking jobs, %d at the same time", self._concurrency)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._leaving = True
        self._again.clear()
        self._stopped.update(self._jobs)
        await _cancel([*self._polls, *self._jobs.values()])
        await self._relay.close()
        await self._platform.__aexit__()

    def condemn(self, verdict: JobError) -> None:
        """Take no more jobs; fail all that vLLM has not answered to the end, now. The first verdict counts."""
        self._verdict = self._verdict or verdict
        self._relay.condemn(verdict)
        self._condemned.set()
        self._stop_taking()

    async def finish(self, drain: float, verdict: JobError) -> None:
        """Take no more jobs; give those in flight `drain` seconds, then fail them with `verdict`; see all posted.

        The poll that is open may be bringing jobs this moment: it is awaited, and what it brings belongs to those in
        flight.
        """
        self._stop_taking()
        end = time.monotonic() + drain
        await self._await_poll(max(drain / 2, drain - LAST_TAKE_S))
        await self._await_jobs(end - time.monotonic())
        if self._jobs and drain:
            logger.warning("%d jobs were not finished in %g s", len(self._jobs), drain)
        self.condemn(verdict)
        await self._await_jobs(POSTS_S)
        for job_id, task in self._jobs.items():
            if job_id not in self._ending:  # a post of theirs hangs
                task.cancel()
        await self._await_jobs(LAST_POSTS_S)

    def _stop_taking(self) -> None:
        self._leaving = True
        self._changed.set()

    async def _await_poll(self, seconds: float) -> None:
        take = self._polls[0]
        condemned = asyncio.create_task(self._condemned.wait())
        await asyncio.wait({take, condemned}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({take}, timeout=DELIVERY_S)
        await _cancel([take, condemned])

    async def _await_jobs(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while self._jobs and (left := end - time.monotonic()) > 0:
            await asyncio.wait(set(self._jobs.values()), timeout=left)
            await asyncio.sleep(0)  # for what follows a job's end

    async def _take_jobs(self) -> None:
        while not self._leaving:
            if len(self._jobs) >= self._concurrency:
                self._changed.clear()
                await self._changed.wait()
                continue
            begin = time.monotonic()
            pause = EMPTY_S
            try:
                body = await self._platform.take(self._concurrency - len(self._jobs))
                self._complaints.pop("job-take", None)
                taken = read_taken(body) if body else []
                for job in taken:
                    self._begin(job)
                if taken:
                    continue
            except TooManyRequests:
                pause = TOO_MANY_S
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                pause = ERROR_S
                self._complain("job-take", error)
            except Exception:
                pause = ERROR_S
                logger.exception("job-take failed")
            await self._pause(pause - (time.monotonic() - begin if pause == EMPTY_S else 0))

    def _complain(self, call: str, error: BaseException) -> None:
        """Log why a poll failed, at each change: some platforms do not know one of the calls at all."""
        why = _described(error)
        if self._complaints.get(call) != why:
            logger.warning("%s failed: %s", call, why)
        self._complaints[call] = why

    async def _pause(self, seconds: float) -> None:
        """Wait; the end of the worker cuts it short."""
        end = time.monotonic() + seconds
        while not self._leaving and (left := end - time.monotonic()) > 0:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):  # `wait_for` of Python 3.11 may swallow a cancellation
                    await self._changed.wait()

    async def _stop_jobs(self) -> None:
        while True:
            pause = ERROR_S
            try:
                ids = await self._platform.stops()
                self._complaints.pop("job-stop", None)
                for job_id in ids:
                    if task := self._jobs.get(job_id):
                        logger.info("Job %s: stopped by the platform", job_id)
                        self._stopped.add(job_id)
                        task.cancel()
                if ids:
                    continue
            except TooManyRequests:
                pause = TOO_MANY_S
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                self._complain("job-stop", error)
            except Exception:
                logger.exception("job-stop failed")
            await asyncio.sleep(pause)

    def _begin(self, job: Taken) -> None:
        if job.id in self._ending or job.id in self._stopped:
            # It is over, which may be known already: somebody asks for it again.
            self._again[job.id] = job
            return
        if job.id in self._jobs:
            logger.warning("Job %s was delivered again while it runs: left alone", job.id)
            return
        self._platform.begin(job.id)
        task = self._jobs[job.id] = asyncio.create_task(self._run(job))
        task.add_done_callback(lambda _task: self._end(job.id))

    def _end(self, job_id: str) -> None:
        del self._jobs[job_id]
        self._ending.discard(job_id)
        self._stopped.discard(job_id)
        self._platform.end(job_id)
        self._changed.set()
        if again := self._again.pop(job_id, None):
            self._begin(again)

    async def _run(self, job: Taken) -> None:
        try:
            result = await self._answer(job)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._verdict is None or job.id in self._stopped or task is None:
                raise
            task.uncancel()
            result = msgspec.json.encode(self._verdict.as_output())
        self._ending.add(job.id)
        await self._delivery.result(job.id, result)

    async def _answer(self, job: Taken) -> bytes:
        """Post the parts of a job's answer; return the body of its result."""
        request: Request | None = None
        result = Result(result_limit(job.id))
        try:
            request = job.request(self._model)
            async with contextlib.aclosing(self._relay.answer(request, job.id)) as parts:
                async for part in parts:
                    await self._forward(job.id, part, result, request)
            return result.body()
        except Undelivered as lost:
            error = JobError(503, f"The platform did not take a part of the answer ({lost}); send the request again.")
        except JobError as known:
            error = known
        except Exception as unknown:
            logger.exception("Job %s", job.id)
            error = JobError(500, f"The worker failed at this job: {type(unknown).__name__}.")
        if request is not None and request.stream and not error.sent:
            await self._offer(job.id, msgspec.json.encode(error.as_event(request.route)))
        return msgspec.json.encode(error.as_output())

    async def _forward(self, job_id: str, part: object, result: Result, request: Request) -> None:
        encoded = msgspec.json.encode(part)
        result.add(encoded, request)
        if request.stream:
            await self._delivery.chunk(job_id, encoded)
        elif len(encoded) < CHUNK_LIMIT - 100:
            await self._offer(job_id, encoded)

    async def _offer(self, job_id: str, part: bytes) -> None:
        """Post a part that is not lost if this post is: the result holds it, too."""
        with contextlib.suppress(Undelivered, TimeoutError):
            async with asyncio.timeout(OFFER_S):
                await self._delivery.chunk(job_id, part)


class Result:
    """The parts of an answer, kept for its end: /runsync, /status and webhooks show nothing else."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 100  # what stands around the parts
        self._parts: list[bytes] = []
        self._too_long: bytes | None = None

    def add(self, part: bytes, request: Request) -> None:
        """Add one part (JSON). Raises JobError for an answer that is too long and comes in no other way."""
        if self._too_long is not None:
            return
        self._size += len(part) + 1
        if self._size <= self._limit:
            self._parts.append(part)
            return
        most = f"{self._limit:,} bytes that the platform takes as a result"
        if not request.stream:
            raise JobError(413, f"The answer has more than the {most}: ask for less, or ask for a stream.")
        error = JobError(413, f"The stream has more than the {most}: read it as it comes, by /stream or /openai.")
        self._too_long = msgspec.json.encode(error.as_event(request.route))
        self._parts.clear()

    def body(self) -> bytes:
        """Return the body of the post that ends the job."""
        return b'{"output":[%b]}' % (b",".join(self._parts) if self._too_long is None else self._too_long)


async def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _described(error: BaseException) -> str:
    """Return what a call ended with: never its address, which may hold a key."""
    status = getattr(error, "status", None)
    return f"HTTP {status}" if status else type(error).__name__
