"""The emulator's jobs: the queue that workers take from, and the states that callers see."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from dataclasses import dataclass, field
from typing import Any

IN_QUEUE = "IN_QUEUE"
IN_PROGRESS = "IN_PROGRESS"
COMPLETED = "COMPLETED"
FAILED = "FAILED"
CANCELLED = "CANCELLED"
TIMED_OUT = "TIMED_OUT"
FINAL = frozenset({COMPLETED, FAILED, CANCELLED, TIMED_OUT})

DEFAULT_TTL = 24 * 3600.0
DEFAULT_EXECUTION_TIMEOUT = 600.0
RESULT_KEPT = {"run": 1800.0, "runsync": 60.0}


@dataclass(eq=False)
class Job:
    """One job, from its submission until its result expires. Times are of the monotonic clock, in seconds."""

    id: str
    input: Any
    kept: float
    ttl: float = DEFAULT_TTL
    execution_timeout: float = DEFAULT_EXECUTION_TIMEOUT
    status: str = IN_QUEUE
    output: Any = None
    error: str | None = None
    worker: str | None = None
    retries: int = 0
    submitted: float = field(default_factory=time.monotonic)
    started: float | None = None
    ended: float | None = None
    chunks: list[Any] = field(default_factory=list)
    chunk_times: list[float] = field(default_factory=list)
    read: int = 0  # chunks that /stream has handed out
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def final(self) -> bool:
        """Whether the job's state will not change any more."""
        return self.status in FINAL

    def touch(self) -> None:
        """Wake all who wait for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def change(self) -> None:
        """Wait for the next chunk or change of state."""
        await self._changed.wait()

    async def finish(self, timeout: float) -> bool:
        """Wait until the job is final; return False after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while not self.final:
                    await self.change()
        except TimeoutError:
            return False
        return True

    def add_chunk(self, output: Any) -> None:
        """Append what the worker streamed."""
        self.chunks.append(output)
        self.chunk_times.append(time.monotonic())
        self.touch()

    def end(self, status: str, *, output: Any = None, error: str | None = None) -> None:
        """Make the job final."""
        self.status, self.output, self.error = status, output, error
        self.ended = time.monotonic()
        self.touch()

    def view(self) -> dict[str, Any]:
        """Return what /status answers."""
        now = time.monotonic()
        view: dict[str, Any] = {"id": self.id, "status": self.status}
        if self.started is not None:
            view["delayTime"] = round((self.started - self.submitted) * 1000)
            view["workerId"] = self.worker
            if self.final:
                view["executionTime"] = round(((self.ended or now) - self.started) * 1000)
        if self.output is not None:
            view["output"] = self.output
        if self.error is not None:
            view["error"] = self.error
        return view


class JobBook:
    """All jobs: handed to workers in order, and subject to the platform's clocks."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.queue: deque[Job] = deque()
        self.counts = {"completed": 0, "failed": 0, "retried": 0}
        self.stops: dict[str, list[str]] = {}  # worker -> ids of jobs that it must stop
        self.last_ping: dict[str, float] = {}
        self._work = asyncio.Condition()

    def find(self, job_id: str) -> Job | None:
        """Return the job, or None if it never was or has expired."""
        return self.jobs.get(job_id)

    async def submit(self, job_input: Any, *, call: str, policy: dict[str, Any] | None = None) -> Job:
        """Queue a job for `call` (`run` or `runsync`); policy's times are milliseconds, as callers send them."""
        policy = policy or {}
        prefix, suffix = ("sync-", "-u1") if call == "runsync" else ("", "-u1")
        job = Job(
            id=f"{prefix}{uuid.uuid4()}{suffix}",
            input=job_input,
            kept=RESULT_KEPT[call],
            ttl=policy.get("ttl", DEFAULT_TTL * 1000) / 1000,
            execution_timeout=policy.get("executionTimeout", DEFAULT_EXECUTION_TIMEOUT * 1000) / 1000,
        )
        self.jobs[job.id] = job
        await self._enqueue(job)
        return job

    async def _enqueue(self, job: Job, *, first: bool = False) -> None:
        if first:
            self.queue.appendleft(job)
        else:
            self.queue.append(job)
        async with self._work:
            self._work.notify_all()

    async def take(self, worker: str, count: int, hold: float) -> list[Job]:
        """Hand up to `count` jobs to `worker`, waiting up to `hold` seconds for the first."""
        try:
            async with asyncio.timeout(hold), self._work:
                await self._work.wait_for(lambda: self.queue)
                taken = [self.queue.popleft() for _ in range(min(count, len(self.queue)))]
        except TimeoutError:
            return []
        for job in taken:
            job.status, job.worker, job.started = IN_PROGRESS, worker, time.monotonic()
            job.touch()
        return taken

    async def give_back(self, jobs: list[Job]) -> None:
        """Queue jobs again, before all others: their worker did not get them, or vanished."""
        for job in reversed(jobs):
            job.status, job.worker, job.started = IN_QUEUE, None, None
            job.chunks.clear()
            job.chunk_times.clear()
            job.read = 0
            await self._enqueue(job, first=True)

    async def retry(self, job: Job) -> None:
        """Queue a failed job again under its own id."""
        job.retries += 1
        self.counts["retried"] += 1
        job.output = job.error = job.ended = None
        await self.give_back([job])

    async def stop(self, job: Job, status: str) -> None:
        """End a job from outside (cancelled, timed out) and tell its worker."""
        if job.status == IN_QUEUE:
            self.queue.remove(job)
        elif job.worker is not None:
            self.stops.setdefault(job.worker, []).append(job.id)
        job.end(status)
        async with self._work:
            self._work.notify_all()

    async def stop_signals(self, worker: str, hold: float) -> list[str]:
        """Return the ids that `worker` must stop, waiting up to `hold` seconds for the first."""
        try:
            async with asyncio.timeout(hold), self._work:
                await self._work.wait_for(lambda: self.stops.get(worker))
                return self.stops.pop(worker)
        except TimeoutError:
            return []

    async def purge(self) -> int:
        """Drop what waits in the queue; return how many jobs that were."""
        waiting = list(self.queue)
        for job in waiting:
            await self.stop(job, CANCELLED)
        return len(waiting)

    async def sweep(self, lost_after: float) -> None:
        """Apply time-outs, expire results, and queue the jobs of vanished workers again."""
        now = time.monotonic()
        lost = {worker for worker, seen in self.last_ping.items() if now - seen > lost_after}
        for worker in lost:
            del self.last_ping[worker]
            orphans = [job for job in self.jobs.values() if job.worker == worker and job.status == IN_PROGRESS]
            self.counts["retried"] += len(orphans)
            await self.give_back(orphans)
        for job in list(self.jobs.values()):
            if job.status == IN_PROGRESS and job.started is not None and now - job.started > job.execution_timeout:
                await self.stop(job, TIMED_OUT)
            expired = job.ended is not None and now - job.ended > job.kept
            if expired or now - job.submitted > job.ttl:
                if not job.final:
                    await self.stop(job, TIMED_OUT)
                del self.jobs[job.id]
