"""A worker's life inside the SDK's event loop: how many jobs it takes, and how it ends.

RunPod's SDK (1.12) puts its own SIGTERM handler in place of ours, drains without a limit in time and then waits for its
idle long polls, up to 90 s. It knows nothing of vLLM's death. So the end is made here, with what the SDK offers in
public: the concurrency hook, which it calls inside its loop before each take, and the handler.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from typing import TYPE_CHECKING, NoReturn

from worker.job_error import JobError

if TYPE_CHECKING:
    from serving.engine.process import Engine
    from worker.relay import Relay

logger = logging.getLogger(__name__)

WATCH_S = 0.1
# Between a job's delivery and its first step in our handler the SDK may wait 0.1 s.
SETTLE_S = 0.3
# For the error of each job to reach the platform, when vLLM is gone already.
LAST_POSTS_S = 3.0


class Lifecycle:
    """Own the end of the process: SIGTERM drains, vLLM's death fails what is in flight.

    A dead vLLM is not started again here: the platform replaces the worker and the callers' retries go to a healthy
    one at once, whereas a restart would hold the jobs for minutes on a machine on which vLLM has just died.
    """

    def __init__(self, engine: Engine, relay: Relay, *, concurrency: int, drain_timeout: float) -> None:
        self._engine = engine
        self._relay = relay
        self._concurrency = concurrency
        self._drain_timeout = drain_timeout
        self._jobs: set[asyncio.Task[object]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._end: asyncio.Task[None] | None = None

    def concurrency(self, _current: int) -> int:
        """Be the SDK's `concurrency_modifier`: a constant while the worker runs.

        At the end it is another number once: the SDK takes no job before it has changed its size, and it does not do
        that before all jobs are finished. A job that an open poll still delivers is started, and refused.
        """
        if self._loop is None:
            self._enter()
        return self._concurrency + (self._end is not None)

    def enter_job(self) -> None:
        """Count the calling task as a job in flight until the SDK has posted its result."""
        task = asyncio.current_task()
        if task is not None:
            self._jobs.add(task)
            task.add_done_callback(self._jobs.discard)
        if self._end is not None and not self._relay.condemned:
            raise JobError(503, "The worker is shutting down; send the request again.")

    def _enter(self) -> None:
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_signal)
        self._watcher = self._loop.create_task(self._watch())
        logger.info("Taking jobs, %d at the same time", self._concurrency)

    def _on_signal(self) -> None:
        if self._end is None:
            logger.info("Told to stop: %d jobs may take %g s more", len(self._jobs), self._drain_timeout)
            self._end = asyncio.ensure_future(self._drain())
        else:
            self._engine.kill()
            self._leave(0)

    async def _watch(self) -> None:
        while self._engine.poll() is None:  # noqa: ASYNC110 (a thread that waits would hold up the loop's end)
            await asyncio.sleep(WATCH_S)
        failure = self._engine.failure()
        reason = failure.reason.rstrip(".")
        self._relay.condemn(JobError(503, f"vLLM has died ({reason}); send the request again."))
        if self._end is None:
            logger.error("%s", "\n".join((*failure.tail, f"vLLM has died: {reason}.")))
            self._end = asyncio.ensure_future(self._fail())

    async def _drain(self) -> None:
        if not await self._quiet(self._drain_timeout):
            logger.warning("%d jobs were not finished in %g s", len(self._jobs), self._drain_timeout)
            self._relay.condemn(JobError(503, "The worker had to stop before the job's end; send the request again."))
            self._engine.kill()  # breaks their connections
            await self._quiet(LAST_POSTS_S)
        await self._relay.close()
        asyncio.get_running_loop().call_soon(self._leave, 0)

    async def _fail(self) -> None:
        await self._quiet(LAST_POSTS_S)
        await self._relay.close()
        asyncio.get_running_loop().call_soon(self._leave, 1)

    async def _quiet(self, limit: float) -> bool:
        """Wait until no job is in flight; return False after `limit` seconds."""
        deadline = time.monotonic() + limit
        while True:
            await asyncio.sleep(SETTLE_S)
            if not self._jobs:
                return True
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return False
            await asyncio.wait(self._jobs, timeout=remaining)

    def _leave(self, status: int) -> NoReturn:
        # Out of a callback, this ends asyncio.run: idle polls are cancelled, and the SDK's ping process, a daemon of
        # multiprocessing, is ended at the interpreter's exit.
        raise SystemExit(status)
