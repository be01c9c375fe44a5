"""Many jobs through one RunPod worker: its memory must stay flat.

    python -m tests.bench.worker_soak [--jobs 20000]

Half of the jobs stream, one in twenty fails, one in fifty is cancelled. Prints the main process's memory (resident set,
MB) at the end of each tenth. Exits with 1 if the last tenth lies more than 5 % above the second.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "runpod"))  # run as a module, from the repository's root

import psutil

from emulation.endpoint import Emulator
from tests.support.worker import chat, running_worker

AT_ONCE = 30
# The SDK counts a job twice until it has started, and sleeps for a second when it thinks that it is full.
CONCURRENCY = 4 * AT_ONCE


async def one_job(platform: Emulator, number: int) -> None:
    """Run one job to its end, and forget it."""
    if number % 20 == 19:
        job_input, wanted = chat(stream=bool(number % 2), status=400), "FAILED"
    elif number % 50 == 48:
        job_input, wanted = chat(tokens=["x"] * 1000, interval=0.01), "CANCELLED"
    else:
        job_input, wanted = chat(stream=bool(number % 2)), "COMPLETED"
    job = await platform.book.submit(job_input, call="run")
    if wanted == "CANCELLED":
        while not job.chunks:
            await job.change()
        await platform.book.stop(job, "CANCELLED")
    if not await job.finish(60) or job.status != wanted:
        sys.exit(f"job {number} is {job.status} and not {wanted}: {job.error}")
    del platform.book.jobs[job.id]


async def soak(jobs: int) -> int:
    """Run the jobs; return the exit status."""
    tenths: list[float] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        async with (
            Emulator() as platform,
            running_worker(platform, Path(folder), WORKER_MAX_CONCURRENCY=str(CONCURRENCY)) as worker,
        ):
            process = psutil.Process(worker.process.pid)
            for tenth in range(10):
                numbers = iter(range(tenth * jobs // 10, (tenth + 1) * jobs // 10))

                async def run(numbers: object = numbers) -> None:
                    for number in numbers:  # type: ignore[attr-defined]
                        await one_job(platform, number)

                await asyncio.gather(*(run() for _ in range(AT_ONCE)))
                tenths.append(process.memory_info().rss / 1e6)
                took = time.monotonic() - began
                print(f"{(tenth + 1) * jobs // 10:6} jobs: {tenths[-1]:6.1f} MB, {took:5.0f} s", flush=True)
            open_files = process.num_fds()
    growth = tenths[9] / tenths[1] - 1
    print(f"from the second tenth to the last: {growth:+.1%}; file descriptors at the end: {open_files}")
    return int(growth > 0.05)


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=20_000)
    return asyncio.run(soak(parser.parse_args().jobs))


if __name__ == "__main__":
    sys.exit(main())
