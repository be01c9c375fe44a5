"""RunPod Serverless on your desk: an endpoint's queue, its worker side and its caller side, on one loopback port.

    python runpod/emulator.py             the platform alone; prints the variables that a worker needs
    python runpod/emulator.py --worker    platform, worker and vLLM together (`make runpod-local`)

What it does is taken from RunPod's SDK 1.12 (worker side) and documentation (caller side); it keeps nothing on disk.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING

from emulation.endpoint import Emulator
from emulation.local_worker import LocalWorker
from emulation.rules import Rules

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_PORT = 8700


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python runpod/emulator.py", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--port", type=int, default=DEFAULT_PORT, help=f"port on 127.0.0.1 (default {DEFAULT_PORT}; 0: a free one)")
    add("--endpoint", default="local", help="the endpoint's id, a part of its address")
    add("--api-key", help="key that callers must send (default: anything goes)")
    add("--worker", action="store_true", help="start the worker and vLLM, too, and stop them at the end")
    add("--latency", type=_pair, action="append", default=[], metavar="CALL=SECONDS", help="delay of a call: take, stop, stream, done, ping, caller")  # fmt: skip # noqa: E501
    add("--too-many", type=_pair, action="append", default=[], metavar="CALL=N", help="answer 429 to every Nth call")
    add("--cold-start", type=float, default=0.0, metavar="SECONDS", help="hand out no job before that")
    add("--vanish-after", type=int, metavar="CHUNKS", help="lose a worker after so many streamed chunks")
    add("--lost-after", type=float, default=60.0, metavar="SECONDS", help="without pings, give a worker's jobs to another")  # fmt: skip # noqa: E501
    return parser.parse_args(argv)


def _pair(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    return name, float(value)


async def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM, or until the worker ends; return the exit status."""
    rules = Rules(
        latency=dict(args.latency),
        too_many={name: int(every) for name, every in args.too_many},
        cold_start=args.cold_start,
        lost_after=args.lost_after,
        vanish_after_chunks=args.vanish_after,
    )
    emulator = Emulator(rules, endpoint=args.endpoint, port=args.port, key=args.api_key)
    try:
        await emulator.__aenter__()
    except OSError as error:
        print(f"Port {args.port} cannot be used ({error.strerror}): choose another with --port.", file=sys.stderr)
        return 1
    try:
        if args.worker:
            return await LocalWorker(emulator).run()
        for name, value in emulator.worker_env().items():
            print(f"{name}='{value}'")
        print(f"LLM_BASE_URL={emulator.openai_url}", flush=True)
        await asyncio.Event().wait()
    finally:
        await emulator.__aexit__()
    return 0


def main() -> int:
    """Run the program; return its exit status."""
    try:
        return asyncio.run(run(parse()))
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
