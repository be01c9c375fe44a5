"""`serving bench` against a server whose every delay is known, and its CPU per token beside the client's own.

    python -m tests.bench.load_bench accuracy      # each figure within 5 % (2 minutes)
    python -m tests.bench.load_bench cost          # CPU per token at 256 streams, beside the client's (2 minutes)

The server is a process of its own (`tests.bench.server`); a prompt of it needs no counting.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from client import LLMClient
from serving.bench.load import Users
from serving.bench.run import measure
from serving.bench.target import Shape, Target
from tests.bench.server import chunk, framed

ROOT = Path(__file__).parents[2]
FIRST_S, EACH_S, TOKENS = 0.25, 0.02, 64
KNEE = 12  # users; beyond it, all share what there is
STREAMS, STREAM_TOKENS, PACE_MS = 256, 300, 10


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, running: list[int]) -> None:
    """Answer with the known delays; `running` counts who is being answered."""
    loop = asyncio.get_running_loop()
    token = chunk({"index": 0, "delta": {"content": " token"}, "logprobs": None, "finish_reason": None})
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            body = await reader.readexactly(int(length or 0))
            if not body:
                text = b'{"object": "list", "data": [{"id": "known"}]}' if b"/models" in head else b"{}"
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
                writer.write(b"content-length: %d\r\n\r\n%s" % (len(text), text))
                continue
            tokens = int(json.loads(body)["max_tokens"])
            prompt = len(json.loads(body)["messages"][0]["content"].split())
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            running[0] += 1
            try:
                due = loop.time() + FIRST_S
                for number in range(tokens):
                    if number:
                        due += EACH_S * max(1.0, running[0] / KNEE)
                    await asyncio.sleep(max(due - loop.time(), 0))
                    writer.write(token)
                    await writer.drain()
            finally:
                running[0] -= 1
            usage = {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
            writer.write(chunk({"index": 0, "delta": {}, "finish_reason": "length"}))
            writer.write(framed(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n"))
            writer.write(framed(b"data: [DONE]\n\n") + b"0\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def serve() -> None:
    """Serve with the known delays until killed."""
    running = [0]
    server = await asyncio.start_server(lambda r, w: answer(r, w, running), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def accuracy() -> int:
    """Run the command against the known delays; print each figure beside what it should be."""
    argv = [sys.executable, "-m", "tests.bench.load_bench", "serve"]
    server = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        words = ["--answer", str(TOKENS), "--seconds", "8", "--first-token", "500ms", "--speed", "40", "--json"]
        bench = [sys.executable, "-m", "serving", "bench", *words]
        done = subprocess.run(
            bench, env={**os.environ, "LLM_BASE_URL": url}, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT
        )
    finally:
        server.terminate()
        server.wait()
    worst = 0.0
    for level in json.loads(done.stdout)["levels"]:
        each = EACH_S * max(1.0, level["load"] / KNEE)
        turn = FIRST_S + (TOKENS - 1) * each
        known = {
            "first token": (level["first_token"]["median"], FIRST_S),
            "speed": (level["speed"]["median"], 1 / each),
            "tokens/s": (level["tokens_per_second"], level["load"] * TOKENS / turn),
        }
        off = {name: found / exact - 1 for name, (found, exact) in known.items()}
        worst = max(worst, *map(abs, off.values())) if level["load"] <= KNEE else worst
        print(f"{level['load']:4.0f} users: " + ", ".join(f"{name} {part:+.1%}" for name, part in off.items()))
    kept = [lv["load"] for lv in json.loads(done.stdout)["levels"] if lv["speed"]["tail"] >= 40]
    print(
        f"furthest off up to {KNEE} users: {worst:.1%}; kept up to {max(kept):.0f} users, built in: {KNEE * 50 / 40:.0f}"
    )
    return int(worst > 0.05)


def cost(rounds: int) -> int:
    """Compare the load test's CPU per token with that of the client alone, in turns, in processes of their own."""
    argv = [sys.executable, "-m", "tests.bench.server"]
    server = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    found: dict[str, list[float]] = {"client": [], "bench": []}
    try:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        for _ in range(rounds):
            for name, spent in found.items():
                one = [sys.executable, "-m", "tests.bench.load_bench", f"one-{name}", "--url", url]
                spent.append(float(subprocess.run(one, capture_output=True, text=True, check=True, cwd=ROOT).stdout))
    finally:
        server.terminate()
        server.wait()
    client, bench = (statistics.median(found[name]) for name in ("client", "bench"))
    print(
        f"CPU per token at {STREAMS} streams: client {client:.1f} us, bench {bench:.1f} us: {bench / client:.2f} times"
    )
    return int(bench > 1.5 * client)


async def one_client(url: str) -> float:
    """Return the client's microseconds of CPU per token."""
    async with LLMClient(base_url=url, api_key="EMPTY", model=f"{STREAM_TOKENS}@{PACE_MS}") as client:

        async def read() -> None:
            async for _ in client.generate_streaming([{"role": "user", "content": "hello"}]):
                pass

        await asyncio.gather(*(read() for _ in range(4)))
        began = time.process_time()
        await asyncio.gather(*(read() for _ in range(STREAMS)))
        return (time.process_time() - began) / (STREAMS * STREAM_TOKENS) * 1e6


async def one_bench(url: str) -> float:
    """Return the load test's microseconds of CPU per token, all that runs beside the streams included."""
    model = f"{STREAM_TOKENS}@{PACE_MS}"
    async with LLMClient(base_url=url, api_key="EMPTY", model=model, max_retries=0) as client:
        target = Target(client, Shape(256, (STREAM_TOKENS, STREAM_TOKENS)))
        await asyncio.gather(*(target.ask(0.0) for _ in range(4)))
        found = await measure(Users(STREAMS), target.ask, 1.0, on_progress=lambda *_: None)
        assert found.own.cpu_us_per_token is not None
        assert not found.errors
        return found.own.cpu_us_per_token


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["accuracy", "cost", "serve", "one-client", "one-bench"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--url")
    given = parser.parse_args()
    if given.what == "serve":
        asyncio.run(serve())
    elif given.what.startswith("one-"):
        print(asyncio.run((one_client if given.what == "one-client" else one_bench)(given.url)))
    else:
        return accuracy() if given.what == "accuracy" else cost(given.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
