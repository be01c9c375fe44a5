"""Many short streams over one client: memory must stay flat, and no connection may be left open.

    python -m tests.bench.client_soak [--streams 100000]

Prints the client's memory (resident set, MiB) at the end of each tenth, and what is still open at the end. Exits with 1
if the last tenth lies more than 5 % above the second.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from client import LLMClient

if TYPE_CHECKING:
    from collections.abc import Iterator

AT_ONCE = 32
MESSAGES = [{"role": "user", "content": "hello"}]


async def soak(streams: int, port: int) -> int:
    """Run the streams; return the exit status."""
    process = psutil.Process()
    tenths: list[float] = []
    client = LLMClient(base_url=f"http://127.0.0.1:{port}/v1", api_key="EMPTY", model="5@0")
    began = time.monotonic()

    async def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            if number % 10 == 9:  # one in ten is left in the middle
                async with client.stream(MESSAGES) as stream:
                    await anext(stream)
            elif await client.generate(MESSAGES) != " token" * 5:
                sys.exit("an answer was not whole")

    for number in range(10):
        numbers = iter(range(streams // 10))
        await asyncio.gather(*(worker(numbers) for _ in range(AT_ONCE)))
        gc.collect()
        tenths.append(process.memory_info().rss / 2**20)
        print(f"tenth {number + 1:2}: {tenths[-1]:6.1f} MiB, {time.monotonic() - began:5.0f} s", flush=True)
    await client.aclose()
    await asyncio.sleep(0.2)
    left = [link for link in process.net_connections("tcp") if link.raddr and link.raddr.port == port]
    growth = tenths[9] / tenths[1] - 1
    print(f"from the second tenth to the last: {growth:+.1%}; connections left open: {len(left)}")
    return int(growth > 0.05 or bool(left))


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--streams", type=int, default=100_000)
    streams = parser.parse_args().streams
    root = Path(__file__).parents[2]
    server = subprocess.Popen([sys.executable, "-m", "tests.bench.server"], stdout=subprocess.PIPE, text=True, cwd=root)
    try:
        assert server.stdout is not None
        return asyncio.run(soak(streams, int(server.stdout.readline())))
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    sys.exit(main())
