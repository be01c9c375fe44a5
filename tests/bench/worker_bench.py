"""The RunPod worker beside one that forwards each read: CPU per token, posts per token, delay from vLLM to the caller.

    python -m tests.bench.worker_bench [--rounds 3] [--streams 30 4] [--rate 60] [--post-ms 50] [--seconds 5]
        [--official worker-vllm/src/handler.py]

All run RunPod's SDK, unmodified, against the emulated platform and the stand-in vLLM, whose events carry the time at
which they were sent. They take turns within a round; the median over the rounds counts. CPU is that of the worker's
main process, from the first job to the last. A delay ends when the platform has answered the post.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import os
import platform as machine
import random
import re
import statistics
import subprocess
import sys
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[2] / "runpod"))  # run as a module, from the repository's root

import psutil

from emulation.endpoint import Emulator
from emulation.rules import Rules
from tests.support.fake_vllm import install
from tests.support.serving import clean_environment, free_port
from tests.support.worker import MODEL, chat, run_job, running_worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from emulation.jobs import Job

FORWARDING = Path(__file__).with_name("forwarding_worker.py")
SENT = re.compile(r'"sent": ([\d.]+)')


@dataclass(frozen=True)
class Load:
    """What is asked of a worker."""

    streams: int
    rate: float  # tokens per second and stream
    tokens: int


@dataclass(frozen=True)
class Figures:
    """What one run gave. CPU is in microseconds, times are in milliseconds."""

    cpu: float
    posts: float
    first: float
    median: float
    p99: float


@asynccontextmanager
async def our_worker(platform: Emulator, folder: Path) -> AsyncIterator[psutil.Process]:
    """Run runpod/handler.py; yield its process."""
    async with running_worker(platform, folder) as worker:
        yield psutil.Process(worker.process.pid)


@asynccontextmanager
async def forwarding_worker(
    platform: Emulator, folder: Path, official: Path | None = None
) -> AsyncIterator[psutil.Process]:
    """Run the yardstick and a stand-in vLLM for it; yield its process. `official`: RunPod's own handler.py, instead."""
    port = free_port()
    settings = {"RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true", "RUNPOD_SKIP_GPU_CHECK": "true", "RUNPOD_LOG_LEVEL": "INFO"}
    if official is not None:
        settings["OFFICIAL_HANDLER"] = str(official)
    environment = clean_environment(HOME=str(folder), VLLM_BASE_URL=f"http://127.0.0.1:{port}", **settings)
    engine = [str(install(folder)), "serve", MODEL, "--port", str(port)]
    with (folder / "log").open("wb") as log:
        vllm = subprocess.Popen(engine, stdout=log, stderr=log)
        worker = subprocess.Popen([sys.executable, FORWARDING], env=environment | platform.worker_env(), stdout=log)
    process = psutil.Process(worker.pid)
    try:
        await platform.workers.taking.wait()
        yield process
    finally:
        for child in (*process.children(), process, psutil.Process(vllm.pid)):
            child.kill()
        worker.wait()
        vllm.wait()


async def measure(worker: Callable[..., Any], load: Load, post: float) -> Figures:
    """Run one load through one worker."""
    rules = Rules(latency={"stream": post, "done": post})
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        platform = await stack.enter_async_context(Emulator(rules))
        process = await stack.enter_async_context(worker(platform, folder))
        await asyncio.gather(*(run_job(platform, _input(Load(1, 60, 5))) for _ in range(4)))
        await asyncio.sleep(1)
        platform.workers.posts.clear()
        before = sum(process.cpu_times()[:2])
        jobs = await asyncio.gather(*(_one_stream(platform, load) for _ in range(load.streams)))
        cpu = sum(process.cpu_times()[:2]) - before
    return figures(jobs, load, cpu, platform.workers.posts["stream"])


async def _one_stream(platform: Emulator, load: Load) -> Job:
    # The SDK looks for new jobs ten times a second: a common start would measure one phase of that.
    await asyncio.sleep(random.uniform(0.0, 0.5))
    return await run_job(platform, _input(load), 120)


def _input(load: Load) -> dict[str, object]:
    job_input = chat(tokens=["token "] * load.tokens, interval=1 / load.rate, stamp=True)
    job_input["openai_input"]["model"] = MODEL
    return job_input


def figures(jobs: list[Job], load: Load, cpu: float, posts: int) -> Figures:
    """Read the events' times out of the chunks."""
    delays: list[float] = []
    firsts: list[float] = []
    for job in jobs:
        times = [
            (arrived, arrived - float(sent[1]))
            for arrived, chunk in zip(job.chunk_times, job.chunks, strict=True)
            for sent in SENT.finditer(chunk)
        ]
        delays += [delay for _, delay in times]
        firsts.append(times[1][0] - job.submitted)  # the event before it is the role
    cuts = statistics.quantiles(delays, n=100)
    tokens = load.streams * load.tokens
    return Figures(cpu / tokens * 1e6, posts / tokens, statistics.median(firsts) * 1e3, cuts[49] * 1e3, cuts[98] * 1e3)


async def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, nargs="+", default=[30, 4])
    parser.add_argument("--rate", type=float, default=60.0, help="tokens per second and stream")
    parser.add_argument("--post-ms", type=float, default=50.0, help="time that the platform takes for a post")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--official", type=Path, help="src/handler.py in a checkout of runpod-workers/worker-vllm")
    args = parser.parse_args()
    workers: dict[str, Callable[..., Any]] = {"this worker": our_worker, "forwarding each read": forwarding_worker}
    if args.official is not None:
        workers["the official worker"] = functools.partial(
            forwarding_worker, official=args.official.resolve(strict=True)
        )
    print(f"Python {machine.python_version()}, {os.cpu_count()} cores, {args.rounds} rounds, medians")
    print("| streams | worker | CPU per token | posts per token | first token | delay, median | delay, 99 % |")
    print("|---|---|---|---|---|---|---|")
    for streams in args.streams:
        load = Load(streams, args.rate, round(args.rate * args.seconds))
        found: dict[str, list[Figures]] = {name: [] for name in workers}
        for _ in range(args.rounds):
            for name, results in found.items():
                results.append(await measure(workers[name], load, args.post_ms / 1e3))
        for name, results in found.items():
            cpu, posts, first, median, p99 = (
                statistics.median(getattr(result, field) for result in results)
                for field in ("cpu", "posts", "first", "median", "p99")
            )
            print(
                f"| {streams} | {name} | {cpu:.0f} us | {posts:.3f} | {first:.0f} ms | {median:.0f} ms | {p99:.0f} ms |",
                flush=True,
            )


if __name__ == "__main__":
    asyncio.run(main())
