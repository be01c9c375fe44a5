"""The call that the platform makes to a caller's address when a job has ended."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING

import aiohttp

if TYPE_CHECKING:
    from emulation.jobs import Job

TRIES = 3  # RunPod's documentation: it expects a 200, and repeats twice, after 10 s each


class Webhooks:
    """Tell the ends of jobs. `pause` is the seconds between two tries."""

    def __init__(self, pause: float = 10.0) -> None:
        self._pause = pause
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, job: Job, url: str) -> None:
        """Post what /status would answer to `url` once the job has ended."""
        task = asyncio.create_task(self._tell(job, url))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up what is not told yet."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _tell(self, job: Job, url: str) -> None:
        await job.finish(float("inf"))
        async with aiohttp.ClientSession() as session:
            for _ in range(TRIES):
                try:
                    async with session.post(url, json=job.view()) as response:
                        if response.status == HTTPStatus.OK:
                            return
                except (aiohttp.ClientError, OSError, ValueError):
                    pass
                await asyncio.sleep(self._pause)
