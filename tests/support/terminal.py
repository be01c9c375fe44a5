"""A program in a terminal of its own: what a person would type, and what they would see."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import sys
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping


class Terminal:
    """`async with Terminal(env, "-m", "client") as terminal`: Python in a pseudo-terminal."""

    def __init__(self, env: Mapping[str, str], *arguments: str) -> None:
        self._env = env
        self._arguments = arguments
        self.shown = ""

    async def __aenter__(self) -> Self:
        self._ours, theirs = pty.openpty()
        self._program = await asyncio.create_subprocess_exec(
            *(sys.executable, *self._arguments),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=self._env,
            start_new_session=True,
        )
        os.close(theirs)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._program.returncode is None:
            self._program.kill()
            await self._program.wait()
        os.close(self._ours)

    def type(self, keys: str) -> None:
        """Send what the keyboard (or a paste) sends."""
        os.write(self._ours, keys.encode())

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self._program.send_signal(signal.SIGINT)

    async def until(self, text: str) -> str:
        """Wait until `text` is shown; return what was shown since the last wait, with it."""
        async with asyncio.timeout(60):
            while text not in self.shown:
                self.shown += (await asyncio.to_thread(os.read, self._ours, 4096)).decode(errors="replace")
        end = self.shown.index(text) + len(text)
        seen, self.shown = self.shown[:end], self.shown[end:]
        return seen

    async def wait(self) -> int:
        """Wait for the program's end; return its exit status."""
        async with asyncio.timeout(60):
            return await self._program.wait()
