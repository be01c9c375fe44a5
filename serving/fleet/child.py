"""A program that must not outlive the fleet: run under the reaper, from asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from serving.engine import reaper
from serving.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

REAPER = Path(reaper.__file__)
READ_BYTES = 1 << 16
LINE_BYTES = 1 << 16  # of a longer line the rest is dropped


class Child:
    """One run of a program. `on_line` gets what it prints; `returncode` is None until nothing of it is left."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], on_line: Callable[[str], None]) -> None:
        self._argv, self._env, self._on_line = argv, env, on_line
        self._orders: int | None = None
        self._begun, self._ended = asyncio.Event(), asyncio.Event()
        self._error: str | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.pid: int | None = None
        self.returncode: int | None = None

    async def start(self) -> None:
        """Start it. Raises Refused if it cannot be run."""
        orders, self._orders = os.pipe()
        reports_fd, reports_end = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(REAPER), str(orders), str(reports_end), *self._argv),
                env=dict(self._env),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=[orders, reports_end],
                start_new_session=True,
            )
        finally:
            os.close(orders)
            os.close(reports_end)
        assert process.stdout is not None
        lines = asyncio.create_task(self._read(process.stdout))
        self._tasks = [lines, asyncio.create_task(self._follow(process, reports_fd, lines))]
        await self._begun.wait()
        if self._error is not None:
            raise Refused(f"{self._argv[0]} could not be started ({self._error}).")

    async def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end of all of it; return its exit status (negative: the signal), None after `timeout`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._ended.wait()
        return self.returncode

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._order(b"T")

    def kill(self) -> None:
        """Kill it and all that it started, now."""
        self._order(b"K")

    async def stop(self, grace: float) -> None:
        """End it: SIGTERM, and after `grace` seconds SIGKILL. Nothing of it is left."""
        self.terminate()
        if await self.wait(grace) is None:
            self.kill()
            await self.wait()

    def _order(self, order: bytes) -> None:
        if self._orders is not None:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._orders, order)

    async def _read(self, stdout: asyncio.StreamReader) -> None:
        rest = b""
        while chunk := await stdout.read(READ_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            rest = rest[:LINE_BYTES]
            for line in lines:
                self._on_line(line[:LINE_BYTES].decode("utf-8", "replace"))
        if rest:
            self._on_line(rest.decode("utf-8", "replace"))

    async def _follow(self, process: asyncio.subprocess.Process, fd: int, lines: asyncio.Task[None]) -> None:
        reports = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reports)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(fd, "rb"))
        code = -int(signal.SIGKILL)
        async for report in reports:
            kind, _, rest = report.decode().strip().partition(" ")
            if kind == "pid":
                self.pid = int(rest)
            elif kind == "error":
                self._error = rest
            elif kind == "exit":
                code = int(rest)
            self._begun.set()
        transport.close()
        await process.wait()
        if self._orders is not None:
            os.close(self._orders)
            self._orders = None
        await asyncio.wait([lines], timeout=5)
        lines.cancel()
        self.returncode = code
        self._begun.set()
        self._ended.set()
