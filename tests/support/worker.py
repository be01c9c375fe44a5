"""runpod/handler.py as the platform runs it: a process of its own, with RunPod's SDK, against the emulator."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import psutil

from emulation.endpoint import Emulator
from tests.support.fake_vllm import install
from tests.support.serving import clean_environment, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from emulation.jobs import Job
    from emulation.rules import Rules

ROOT = Path(__file__).parents[2]
HANDLER = ROOT / "runpod" / "handler.py"
MODEL = "google/gemma-3-27b-it"


def arguments(process: psutil.Process) -> list[str]:
    """Return a process' arguments; none of one that has just ended."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return process.cmdline()
    return []


class Worker:
    """A running worker in `folder`, with what it has printed in `log`."""

    def __init__(self, folder: Path, environment: dict[str, str], arguments: tuple[str, ...] = ()) -> None:
        self.vllm_port = int(environment["SERVE_PORT"])
        self.log_file = folder / "worker.log"
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(HANDLER), *arguments],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """Return what the worker has printed."""
        return self.log_file.read_text(errors="replace")

    def family(self) -> list[psutil.Process]:
        """Return the worker's process and all below it: the ping process, the reaper, vLLM."""
        main = psutil.Process(self.process.pid)
        return [main, *main.children(recursive=True)]

    def vllm(self) -> psutil.Process:
        """Return vLLM's process."""
        return next(p for p in self.family() if "serve" in (words := arguments(p)) and "reaper" not in " ".join(words))

    async def report(self) -> dict[str, Any]:
        """Return what the stand-in vLLM has seen."""
        url = f"http://127.0.0.1:{self.vllm_port}/fake"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return dict(await response.json())

    def terminate(self) -> None:
        """Send SIGTERM to the main process alone."""
        self.process.send_signal(signal.SIGTERM)

    async def exit_status(self, within: float = 20.0) -> int:
        """Wait for the end of the main process."""
        return await asyncio.to_thread(self.process.wait, within)

    def close(self) -> None:
        """End it, whatever state it is in."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in reversed(self.family()):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.wait(10)


def worker_environment(folder: Path, **settings: str) -> dict[str, str]:
    """Return the environment of a worker on a pretended GPU, with the stand-in vLLM."""
    return clean_environment(
        HOME=str(folder),  # the SDK would read ~/.runpod/config.toml
        SERVE_ENGINE=str(install(folder)),
        SERVE_PORT=str(free_port()),
        SERVE_MODEL=MODEL,
        WORKER_VOLUME=str(folder / "volume"),
        **{"SERVE_GPUS": "1x NVIDIA H100 80GB HBM3", **settings},
    )


@contextlib.asynccontextmanager
async def running_worker(
    platform: Emulator, folder: Path, *, ready: bool = True, **settings: str
) -> AsyncIterator[Worker]:
    """Run a worker against `platform`; it takes jobs when the block is entered, unless `ready` is False."""
    worker = Worker(folder, worker_environment(folder, **settings) | platform.worker_env())
    try:
        if ready:
            async with asyncio.timeout(30):
                await platform.workers.taking.wait()
        yield worker
    finally:
        worker.close()


@contextlib.asynccontextmanager
async def platform_and_worker(
    folder: Path, rules: Rules | None = None, **settings: str
) -> AsyncIterator[tuple[Emulator, Worker]]:
    """Run an emulated platform and one worker."""
    async with Emulator(rules) as platform, running_worker(platform, folder, ready=True, **settings) as worker:
        yield platform, worker


async def run_job(platform: Emulator, job_input: Any, within: float = 30.0) -> Job:
    """Submit a job and wait for its end."""
    job = await platform.book.submit(job_input, call="run")
    assert await job.finish(within), f"not finished: {job.view()}"
    return job


async def eventually(condition: Any, within: float = 10.0) -> None:
    """Wait until `condition()` (which may be a coroutine function) is true."""
    deadline = time.monotonic() + within
    while True:
        result = condition()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return
        assert time.monotonic() < deadline, "that did not come about"
        await asyncio.sleep(0.05)


def chat(**script: Any) -> dict[str, Any]:
    """Return a job's input: a chat request that scripts the stand-in's answer; `stream` is the request's own."""
    stream = script.pop("stream", True)
    body = {"messages": [{"role": "user", "content": "hello"}], "stream": stream, "fake": script}
    return {"openai_route": "/v1/chat/completions", "openai_input": body}


def is_gone(process: psutil.Process) -> bool:
    """Whether a process has ended (a zombie whose parent has not looked yet counts)."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
