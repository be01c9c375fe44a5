"""The worker of a queue endpoint: takes jobs through RunPod's SDK and answers them with vLLM, until its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker import sdk
from worker.job_error import JobError
from worker.job_input import read_job
from worker.job_loop import JobLoop
from worker.relay import Relay
from worker.startup import EngineStart
from worker.unhealthy import report_unhealthy
from worker.vllm_watch import VllmWatch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from serving.settings import ServeSettings
    from worker.settings import WorkerSettings

logger = logging.getLogger(__name__)

DEFAULT_CONCURRENCY = 30


def serve_queue(worker: WorkerSettings, serve: ServeSettings, begin: float) -> int:
    """Start vLLM on loopback and answer jobs until a signal (status 0) or vLLM's death or sickness (status 1)."""
    inside = {"host": "127.0.0.1", "ui": False, "tls_cert": None, "tls_key": None}
    start = EngineStart(serve.model_copy(update=inside), worker.volume, begin)
    with start.engine() as engine:
        sdk.load()  # two seconds of imports, while vLLM loads
        start.wait_ready()
        key = serve.api_key.get_secret_value() if serve.api_key else None
        relay = Relay(start.origin, key=key)
        watch = VllmWatch(engine, key, stalled_after=worker.stall_timeout, in_hand=lambda: relay.in_hand)
        relay.on_status = watch.saw_status
        concurrency = worker.max_concurrency or min(DEFAULT_CONCURRENCY, start.max_num_seqs or DEFAULT_CONCURRENCY)

        async def loop() -> int:
            jobs = JobLoop(sdk.Platform(), relay, model=start.served_name, concurrency=concurrency)
            return await live(jobs, watch, worker.drain_timeout)

        return sdk.start(configure(relay, concurrency, start.served_name), loop)


async def live(jobs: JobLoop, watch: VllmWatch, drain_timeout: float) -> int:
    """Answer jobs until the end; return the exit status.

    A vLLM that died or is sick is not started again here: the platform replaces the worker and the callers' retries go
    to a healthy one at once, whereas a restart would hold the jobs for minutes on a machine on which vLLM just failed.
    """
    told, told_again = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, lambda: (told_again if told.is_set() else told).set())
    async with jobs, watch:
        stop, now = asyncio.create_task(told.wait()), asyncio.create_task(told_again.wait())
        failed = asyncio.create_task(watch.failed())
        end: asyncio.Task[None] | None = None
        try:
            await asyncio.wait({stop, failed}, return_when=asyncio.FIRST_COMPLETED)
            if not failed.done():
                logger.info("Told to stop: %d jobs may take %g s more", len(jobs), drain_timeout)
                verdict = JobError(503, "The worker had to stop before the job's end; send the request again.")
                end = asyncio.create_task(jobs.finish(drain_timeout, verdict))
                await asyncio.wait({end, now, failed}, return_when=asyncio.FIRST_COMPLETED)
            if not failed.done():
                return 0
            verdict = JobError(503, f"{failed.result()}; send the request again.")
            if end is None:  # first nothing more is taken, then the jobs in flight fail
                end = asyncio.create_task(jobs.finish(0, verdict))
            else:
                jobs.condemn(verdict)
            await asyncio.wait({end, now}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            tasks = [task for task in (stop, now, failed, end) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    if told.is_set():
        return 0
    await asyncio.to_thread(report_unhealthy, failed.result(), check="vllm")
    logger.error("%s", "\n".join((*watch.last_lines, f"{failed.result()}.")))
    return 1


def configure(relay: Relay, concurrency: int, model: str) -> dict[str, Any]:
    """Return the SDK's configuration: what its own loop would need, and its local ways of running a worker do need."""

    async def handle(job: dict[str, Any]) -> AsyncIterator[Any]:
        """Yield what answers one job; whatever goes wrong comes last, as an error."""
        request = None
        try:
            request = read_job(job.get("input"), model)
            async with contextlib.aclosing(relay.answer(request, str(job["id"]))) as parts:
                async for part in parts:
                    yield part
        except JobError as error:
            if request is not None and request.stream and not error.sent:
                yield error.as_event(request.route)
            yield error.as_output()

    async def handle_whole(job: dict[str, Any]) -> Any:
        """Return the whole answer: the SDK's own way of running one local job knows no generators."""
        parts = [part async for part in handle(job)]
        await relay.close()
        return parts[-1] if isinstance(parts[-1], dict) else "".join(map(str, parts))

    return {
        "handler": handle_whole if has_local_job() else handle,
        "concurrency_modifier": lambda _current: concurrency,
        "return_aggregate_stream": True,
    }


def has_job_source() -> bool:
    """Whether jobs come from a platform, from the SDK's local server, or from this machine."""
    return "RUNPOD_WEBHOOK_GET_JOB" in os.environ or _has_flag("--rp_serve_api") or has_local_job()


def has_local_job() -> bool:
    """Whether the SDK will run one job, from the command line or from test_input.json, and end."""
    if _has_flag("--rp_serve_api"):
        return False
    in_file = "RUNPOD_WEBHOOK_GET_JOB" not in os.environ and Path("test_input.json").is_file()
    return in_file or _has_flag("--test_input")


def _has_flag(name: str) -> bool:
    return any(argument.split("=")[0] == name for argument in sys.argv[1:])
