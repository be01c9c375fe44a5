"""The worker of `make runpod-local`: a child process that lives and dies with the emulator."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emulation.endpoint import Emulator

HANDLER = Path(__file__).parents[1] / "handler.py"
PR_SET_PDEATHSIG = 1


class LocalWorker:
    """Start runpod/handler.py against an emulator, say when it takes jobs, and stop it."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator

    async def run(self) -> int:
        """Run until Ctrl-C or SIGTERM (a second one kills) or the worker's own end; return the exit status."""
        libc = ctypes.CDLL(None)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(HANDLER),
            env=_worker_environment(self._emulator),
            start_new_session=True,  # a Ctrl-C at the terminal is ours to pass on
            preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
        )
        asked = 0

        def stop() -> None:
            nonlocal asked
            asked += 1
            if process.returncode is None:
                process.send_signal(signal.SIGTERM if asked == 1 else signal.SIGKILL)

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        announcer = asyncio.create_task(self._announce())
        try:
            code = await process.wait()
        finally:
            announcer.cancel()
        return 0 if asked else code

    async def _announce(self) -> None:
        await self._emulator.workers.taking.wait()
        print(
            "\nThe worker takes jobs. Ask through the emulated platform, in another terminal:\n\n"
            f"  export LLM_BASE_URL={self._emulator.openai_url}\n"
            '  python -m client "What is the capital of France?"\n\n'
            "Ctrl-C stops all of it.",
            flush=True,
        )


def _worker_environment(emulator: Emulator) -> dict[str, str]:
    """Return our own environment with the platform's variables; vLLM gets a free port unless one was chosen."""
    env = os.environ | emulator.worker_env()
    env["WORKER_MODE"] = "queue"
    if "SERVE_PORT" not in env:
        # LLM_BASE_URL may be the emulator's by now, and its port would become vLLM's.
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            env["SERVE_PORT"] = str(probe.getsockname()[1])
    return env
