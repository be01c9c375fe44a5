"""The worker of a queue endpoint: takes jobs through RunPod's SDK and answers them with vLLM."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.job_error import JobError
from worker.job_input import read_job
from worker.lifecycle import Lifecycle
from worker.relay import Relay
from worker.startup import Boot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from serving.settings import ServeSettings
    from worker.settings import WorkerSettings

DEFAULT_CONCURRENCY = 30


def serve_queue(worker: WorkerSettings, serve: ServeSettings, begin: float) -> int:
    """Start vLLM on loopback and answer jobs until a signal or vLLM's death."""
    boot = Boot(serve.model_copy(update={"host": "127.0.0.1"}), worker.volume, begin)
    with boot.engine() as engine:
        runpod = load_sdk()  # two seconds of imports, while vLLM loads
        boot.wait_ready()
        key = serve.api_key.get_secret_value() if serve.api_key else None
        relay = Relay(boot.origin, key=key, flush=worker.flush_ms / 1000)
        concurrency = worker.max_concurrency or min(DEFAULT_CONCURRENCY, boot.max_num_seqs or DEFAULT_CONCURRENCY)
        lifecycle = Lifecycle(engine, relay, concurrency=concurrency, drain_timeout=worker.drain_timeout)
        runpod.serverless.start(configure(relay, lifecycle, boot.served_name))
    return 0


def configure(relay: Relay, lifecycle: Lifecycle, model: str) -> dict[str, Any]:
    """Return the SDK's configuration: the handler, and how many jobs it takes at once."""
    config: dict[str, Any] = {"concurrency_modifier": lifecycle.concurrency}

    async def handle(job: dict[str, Any]) -> AsyncIterator[dict[str, Any] | str]:
        """Yield what answers one job."""
        try:
            lifecycle.enter_job()
            request = read_job(job.get("input"), model)
        except JobError as error:
            yield error.as_output()
            return
        async for part in relay.answer(request, str(job["id"])):
            # The SDK posts each yield as a chunk, and looks up this flag right after the yield, before anything else
            # can run, to learn whether the result at the end shall hold it, too. /runsync and /status show only that
            # result, so an answer that is whole goes in; the texts of a stream have reached their reader by /stream
            # or /openai, and a second copy of them all could grow past what the platform takes.
            config["return_aggregate_stream"] = not isinstance(part, str)
            yield part

    async def handle_whole(job: dict[str, Any]) -> dict[str, Any] | str:
        """Return the whole answer: the SDK's own way of running one local job knows no generators."""
        parts = [part async for part in handle(job)]
        await relay.close()
        return parts[-1] if isinstance(parts[-1], dict) else "".join(map(str, parts))

    config["handler"] = handle_whole if has_local_job() else handle
    return config


def load_sdk() -> Any:
    """Import RunPod's SDK, set up as this worker needs it."""
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


def has_job_source() -> bool:
    """Tell whether jobs come from a platform, from the SDK's local server, or from this machine."""
    return "RUNPOD_WEBHOOK_GET_JOB" in os.environ or _has_flag("--rp_serve_api") or has_local_job()


def has_local_job() -> bool:
    """Tell whether the SDK will run one job, from the command line or from test_input.json, and end."""
    if _has_flag("--rp_serve_api"):
        return False
    in_file = "RUNPOD_WEBHOOK_GET_JOB" not in os.environ and Path("test_input.json").is_file()
    return in_file or _has_flag("--test_input")


def _has_flag(name: str) -> bool:
    return any(argument.split("=")[0] == name for argument in sys.argv[1:])


def _die_with_the_worker() -> None:
    """Tie the SDK's forked ping process to ours: it must not go on pinging for a worker that was killed."""
    import ctypes

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
