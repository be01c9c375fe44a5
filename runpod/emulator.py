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

from emulation.accidents import CALLS, KINDS, TAKE_KINDS, Accident, every
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
    add("--latency", type=_latency, action="append", default=[], metavar="CALL=SECONDS", help=f"delay of a call: {', '.join(CALLS)}")  # fmt: skip # noqa: E501
    add("--too-many", type=_too_many, action="append", default=[], metavar="CALL=N", help="answer 429 to every Nth call")  # fmt: skip # noqa: E501
    add("--stumble", type=_stumble, action="append", default=[], metavar="CALL=WHAT:N", help=f"let every Nth call go wrong: a status, {', '.join(KINDS)}, all with -after (the call had its effect); at take also {', '.join(TAKE_KINDS)}")  # fmt: skip # noqa: E501
    add("--gateway-cut", type=_seconds, metavar="SECONDS", help="cut a caller's connection to /openai and /runsync then")  # fmt: skip # noqa: E501
    add("--cold-start", type=_seconds, default=0.0, metavar="SECONDS", help="hand out no job before that")
    add("--vanish-after", type=_count, metavar="CHUNKS", help="lose a worker after so many streamed chunks")
    add("--lost-after", type=_seconds, default=60.0, metavar="SECONDS", help="without pings, give a worker's jobs to another")  # fmt: skip # noqa: E501
    return parser.parse_args(argv)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return seconds


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 1 or more")
    return int(text)


def _call(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if name not in CALLS or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} must begin with one of {', '.join(f'{call}=' for call in CALLS)}")
    return name, value


def _latency(text: str) -> tuple[str, float]:
    name, value = _call(text)
    return name, _seconds(value)


def _too_many(text: str) -> tuple[str, int]:
    name, value = _call(text)
    return name, _count(value)


def _stumble(text: str) -> tuple[str, tuple[Accident, int]]:
    name, value = _call(text)
    what, _, every_nth = value.partition(":")
    try:
        accident = Accident.read(what)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if accident.kind in TAKE_KINDS and name != "take":
        raise argparse.ArgumentTypeError(f"{what!r} happens at take alone")
    return name, (accident, _count(every_nth))


async def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM, or until the worker ends; return the exit status."""
    stumbles: dict[str, list[tuple[Accident, int]]] = {}
    for call, stumble in args.stumble:
        stumbles.setdefault(call, []).append(stumble)
    rules = Rules(
        latency=dict(args.latency),
        too_many=dict(args.too_many),
        accidents=every(stumbles),
        gateway_cut=args.gateway_cut,
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
