"""An emulated endpoint of RunPod Serverless: its queue, its worker side and its caller side, on one loopback port."""

from __future__ import annotations

import asyncio
import contextlib

from aiohttp import web

from emulation.caller_side import CallerSide
from emulation.jobs import JobBook
from emulation.rules import Rules
from emulation.webhooks import Webhooks
from emulation.worker_side import WorkerSide

BODY_LIMIT = 64 << 20
SWEEP_S = 0.25
# What was accepted last becomes a connection in a few turns of the loop, and only then can it be closed.
ACCEPTED_S = 0.01


class Emulator:
    """Run one emulated endpoint.

    Use as `async with Emulator() as platform:`; then `platform.base_url` is the endpoint's address, `platform.book`
    its jobs and `platform.workers.posts` the worker's calls. Port 0 takes a free one.
    """

    def __init__(
        self,
        rules: Rules | None = None,
        *,
        endpoint: str = "local",
        port: int = 0,
        key: str | None = None,
    ) -> None:
        self.rules = rules or Rules()
        self.endpoint = endpoint
        self.port = port
        self.book = JobBook()
        self.workers = WorkerSide(self.book, self.rules)
        self.webhooks = Webhooks(self.rules.webhook_pause)
        self.callers = CallerSide(self.book, self.rules, key, self.webhooks)
        self._runner: web.AppRunner | None = None
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def base_url(self) -> str:
        """Return the endpoint's address, where RunPod has https://api.runpod.ai/v2/<endpoint>."""
        return f"http://127.0.0.1:{self.port}/v2/{self.endpoint}"

    @property
    def openai_url(self) -> str:
        """Return what goes into LLM_BASE_URL."""
        return f"{self.base_url}/openai/v1"

    def worker_env(self, worker: str = "worker-1") -> dict[str, str]:
        """Return what the platform puts into the environment of a worker."""
        query = "?gpu=none"  # the SDK appends &name=value to these addresses
        return {
            "RUNPOD_WEBHOOK_GET_JOB": f"{self.base_url}/job-take/$ID{query}",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{self.base_url}/job-done/$RUNPOD_POD_ID/$ID{query}",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{self.base_url}/job-stream/$RUNPOD_POD_ID/$ID{query}",
            "RUNPOD_WEBHOOK_PING": f"{self.base_url}/ping/$RUNPOD_POD_ID{query}",
            "RUNPOD_POD_ID": worker,
            "RUNPOD_AI_API_KEY": "emulated",
            "RUNPOD_PING_INTERVAL": "2000",
        }

    async def __aenter__(self) -> Emulator:
        app = web.Application(client_max_size=BODY_LIMIT)
        self.workers.add_routes(app, self.endpoint)
        self.callers.add_routes(app, self.endpoint)
        # A worker's open polls must not hold up the end.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self._sweeper = asyncio.create_task(self._sweep())
        return self

    async def __aexit__(self, *_exc: object) -> None:
        assert self._runner is not None
        assert self._sweeper is not None
        self._sweeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._sweeper
        await self.webhooks.close()
        for site in list(self._runner.sites):
            await site.stop()
        await asyncio.sleep(ACCEPTED_S)
        await self._runner.cleanup()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            await self.book.sweep(self.rules.lost_after)
