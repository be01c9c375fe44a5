"""RunPod Serverless on your desk: an endpoint's queue, its worker side and its caller side, on one loopback port.

    python runpod/emulator.py             the platform alone; prints the variables that a worker needs
    python runpod/emulator.py --worker    platform, worker and vLLM together (`make runpod-local`)

What it does is taken from RunPod's SDK 1.12 (worker side) and documentation (caller side); it keeps nothing on disk.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING

from aiohttp import web

from emulated_caller_side import CallerSide
from emulated_jobs import JobBook
from emulated_rules import Rules
from emulated_worker_side import WorkerSide
from local_worker import LocalWorker

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_PORT = 8700
BODY_LIMIT = 64 << 20
SWEEP_S = 0.25


class Emulator:
    """Run one emulated endpoint.

    Use as `async with Emulator() as platform:`; then `platform.base_url` is the endpoint's address, `platform.book`
    its jobs and `platform.workers.posts` the worker's calls. Port 0 takes a free one.
    """

    def __init__(
        self,
        rules: Rules | None = None,
        *,
        endpoint: str = "local",
        port: int = 0,
        key: str | None = None,
    ) -> None:
        self.rules = rules or Rules()
        self.endpoint = endpoint
        self.port = port
        self.book = JobBook()
        self.workers = WorkerSide(self.book, self.rules)
        self.callers = CallerSide(self.book, self.rules, key)
        self._runner: web.AppRunner | None = None
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def base_url(self) -> str:
        """Return the endpoint's address, where RunPod has https://api.runpod.ai/v2/<endpoint>."""
        return f"http://127.0.0.1:{self.port}/v2/{self.endpoint}"

    @property
    def openai_url(self) -> str:
        """Return what goes into LLM_BASE_URL."""
        return f"{self.base_url}/openai/v1"

    def worker_env(self, worker: str = "worker-1") -> dict[str, str]:
        """Return what the platform puts into the environment of a worker."""
        query = "?gpu=none"  # the SDK appends &name=value to these addresses
        return {
            "RUNPOD_WEBHOOK_GET_JOB": f"{self.base_url}/job-take/$ID{query}",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{self.base_url}/job-done/$RUNPOD_POD_ID/$ID{query}",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{self.base_url}/job-stream/$RUNPOD_POD_ID/$ID{query}",
            "RUNPOD_WEBHOOK_PING": f"{self.base_url}/ping/$RUNPOD_POD_ID{query}",
            "RUNPOD_POD_ID": worker,
            "RUNPOD_AI_API_KEY": "emulated",
            "RUNPOD_PING_INTERVAL": "2000",
        }

    async def __aenter__(self) -> Emulator:
        app = web.Application(client_max_size=BODY_LIMIT)
        self.workers.add_routes(app, self.endpoint)
        self.callers.add_routes(app, self.endpoint)
        # A worker's open polls must not hold up the end.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self._sweeper = asyncio.create_task(self._sweep())
        return self

    async def __aexit__(self, *_exc: object) -> None:
        assert self._runner is not None
        assert self._sweeper is not None
        self._sweeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._sweeper
        await self._runner.cleanup()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            await self.book.sweep(self.rules.lost_after)


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
    """Be the program."""
    try:
        return asyncio.run(run(parse()))
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
