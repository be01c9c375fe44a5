"""CPU time per streamed token: this client, AsyncOpenAI, and a bare aiohttp reader, against the same server.

    python -m tests.bench.client_bench [--rounds 5]

Each measurement is a process of its own; the clients take turns within a round, and the median over the rounds counts.
What is counted is the CPU time of the client's process from the first request to the last token, after a warm-up.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

# name: streams at once, tokens each, milliseconds between tokens
CASES = {
    "1 stream, burst": (1, 20_000, 0),
    "64 streams, burst": (64, 500, 0),
    "256 streams, a token every 10 ms each": (256, 300, 10),
}
MESSAGES = [{"role": "user", "content": "hello"}]
Read = Callable[[str], Awaitable[int]]


async def ours(base_url: str, run: Callable[[Read], Awaitable[None]]) -> None:
    """Read with LLMClient, its deadlines included."""
    from client import LLMClient

    async with LLMClient(base_url=base_url, api_key="EMPTY", total_timeout=600) as client:

        async def read(model: str) -> int:
            count = 0
            async for _ in client.generate_streaming(MESSAGES, model=model):
                count += 1
            return count

        await run(read)


async def sdk(base_url: str, run: Callable[[Read], Awaitable[None]]) -> None:
    """Read with AsyncOpenAI as it comes."""
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=base_url, api_key="EMPTY") as client:

        async def read(model: str) -> int:
            count = 0
            stream = await client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": "hello"}], stream=True
            )
            async for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.content:
                    count += 1
            return count

        await run(read)


async def bare(base_url: str, run: Callable[[Read], Awaitable[None]]) -> None:
    """Read lines with aiohttp and decode them with json: no deadlines, no checks."""
    import aiohttp

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(None)) as session:

        async def read(model: str) -> int:
            count = 0
            body = {"model": model, "messages": MESSAGES, "stream": True}
            async with session.post(f"{base_url}/chat/completions", json=body) as response:
                async for line in response.content:
                    if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
                        choices = json.loads(line[6:])["choices"]
                        if choices and choices[0]["delta"].get("content"):
                            count += 1
            return count

        await run(read)


CLIENTS = {"this client": ours, "AsyncOpenAI": sdk, "bare aiohttp, lines + json": bare}


def measure(client: str, case: str, base_url: str) -> None:
    """Print the microseconds of CPU per token of one client in one case."""
    streams, tokens, pace = CASES[case]

    async def run(read: Read) -> None:
        await asyncio.gather(*(read("5@0") for _ in range(4)))
        began = time.process_time()
        counts = await asyncio.gather(*(read(f"{tokens}@{pace}") for _ in range(streams)))
        spent = time.process_time() - began
        if counts != [tokens] * streams:
            sys.exit(f"{client} lost tokens: {counts}")
        print(spent / (streams * tokens) * 1e6)

    asyncio.run(CLIENTS[client](base_url, run))


def table(rounds: int) -> None:
    """Measure all, in turns, and print a table."""
    root = Path(__file__).parents[2]
    server = subprocess.Popen([sys.executable, "-m", "tests.bench.server"], stdout=subprocess.PIPE, text=True, cwd=root)
    try:
        assert server.stdout is not None
        base_url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        found: dict[tuple[str, str], list[float]] = {}
        for number in range(rounds):
            for case in CASES:
                for client in CLIENTS:
                    argv = [sys.executable, "-m", "tests.bench.client_bench", "--one", client, case, base_url]
                    print(f"\rround {number + 1}/{rounds}: {case}, {client:30}", end="", file=sys.stderr, flush=True)
                    spent = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=root).stdout
                    found.setdefault((client, case), []).append(float(spent))
    finally:
        server.terminate()
        server.wait()
    print("\r" + " " * 100 + "\r", end="", file=sys.stderr)
    print(f"CPU per streamed token, medians of {rounds} interleaved rounds")
    print(f"({os.cpu_count()} cores, Python {platform.python_version()}, loopback)\n")
    print("| client | " + " | ".join(CASES) + " |\n|---|" + "---|" * len(CASES))
    for client in CLIENTS:
        medians = {case: statistics.median(found[client, case]) for case in CASES}
        print(f"| {client} | " + " | ".join(f"{medians[case]:.0f} us" for case in CASES) + " |")
    this, other, least = CLIENTS
    for over, under in ((other, this), (this, least)):
        ratios = [statistics.median(found[over, case]) / statistics.median(found[under, case]) for case in CASES]
        print(f"| {over} / {under} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", nargs=3, metavar=("CLIENT", "CASE", "URL"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        measure(*given.one)
    else:
        table(given.rounds)


if __name__ == "__main__":
    main()
