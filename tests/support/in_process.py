"""A worker's job loop in this process, between an emulated platform and a stand-in vLLM: no process is started."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any
from unittest import mock

from aiohttp import web

from emulation.endpoint import Emulator
from tests.support.fake_vllm import STATE, State, make_app
from tests.support.worker import MODEL
from worker import job_loop, relay, sdk
from worker.delivery import Patience
from worker.job_loop import JobLoop
from worker.relay import Relay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from emulation.jobs import Job
    from emulation.rules import Rules

# As the real ones, in a fiftieth of the time.
QUICK = Patience(first=0.005, longest=0.02, chunk=0.5, result=5.0)
PAUSES = {
    "TOO_MANY_S": 0.02, "ERROR_S": 0.02, "EMPTY_S": 0.01, "LAST_TAKE_S": 0.2, "POSTS_S": 0.3,
    "OFFER_S": 0.5,
}  # fmt: skip


@contextlib.contextmanager
def addressed_to(platform: Emulator) -> Any:
    """Let the SDK's modules, which read the environment when they are imported, call `platform`."""
    with mock.patch.dict(os.environ, platform.worker_env()):
        from runpod.serverless.modules import rp_http, rp_job  # type: ignore[import-untyped]
    env = platform.worker_env("in-process")
    worker = env["RUNPOD_POD_ID"]
    with (
        mock.patch.object(rp_job, "JOB_GET_URL", env["RUNPOD_WEBHOOK_GET_JOB"].replace("$ID", worker)),
        mock.patch.object(rp_http, "JOB_DONE_URL", env["RUNPOD_WEBHOOK_POST_OUTPUT"].replace("$RUNPOD_POD_ID", worker)),
        mock.patch.object(
            rp_http, "JOB_STREAM_URL", env["RUNPOD_WEBHOOK_POST_STREAM"].replace("$RUNPOD_POD_ID", worker)
        ),
    ):
        yield


@contextlib.asynccontextmanager
async def fake_vllm() -> AsyncIterator[tuple[str, State]]:
    """Serve the stand-in vLLM; yield its origin and what it has seen."""
    runner = web.AppRunner(make_app(State(MODEL)), access_log=None, shutdown_timeout=0.05, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", runner.app[STATE]
    finally:
        await runner.cleanup()


class InProcess:
    """What `looping` yields: the platform, the job loop and the stand-in vLLM's state."""

    def __init__(self, platform: Emulator, jobs: JobLoop, vllm: State) -> None:
        self.platform, self.jobs, self.vllm = platform, jobs, vllm

    async def submit(self, job_input: Any, **options: Any) -> Job:
        """Queue a job."""
        return await self.platform.book.submit(job_input, call="run", **options)


@contextlib.asynccontextmanager
async def looping(
    rules: Rules | None = None, *, concurrency: int = 30, patience: Patience = QUICK, chunk_s: float = 30.0
) -> AsyncIterator[InProcess]:
    """Run a job loop against a platform with `rules`. `chunk_s`: when a chunk that hangs is given up."""
    async with Emulator(rules) as platform, fake_vllm() as (origin, state):
        with addressed_to(platform), contextlib.ExitStack() as quick:
            for name, seconds in PAUSES.items():
                quick.enter_context(mock.patch.object(job_loop, name, seconds))
            quick.enter_context(mock.patch.object(relay, "EXPLANATION_S", 0.01))
            quick.enter_context(mock.patch.object(sdk, "POLL_S", 1.0))
            quick.enter_context(mock.patch.object(sdk, "POST_S", {sdk.Call.CHUNK: chunk_s, sdk.Call.RESULT: 0.5}))
            loop = JobLoop(sdk.Platform(), Relay(origin), model=MODEL, concurrency=concurrency, patience=patience)
            async with loop as jobs:
                yield InProcess(platform, jobs, state)
