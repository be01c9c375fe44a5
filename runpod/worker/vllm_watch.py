"""Whether vLLM is still of use: it may end by itself, or go on running and answer nobody."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from serving.engine.process import Engine

logger = logging.getLogger(__name__)


class VllmWatch:
    """Watch one vLLM. Use as `async with VllmWatch(...) as watch:`, within one event loop."""

    def __init__(self, engine: Engine, origin: str, key: str | None, *, stalled_after: float) -> None:
        self._engine = engine
        self._ended = asyncio.Event()
        self.last_lines: tuple[str, ...] = ()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()

        def wait() -> None:
            self._engine.wait()
            with contextlib.suppress(RuntimeError):  # the loop is over
                loop.call_soon_threadsafe(self._ended.set)

        threading.Thread(target=wait, name="vllm-watch", daemon=True).start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Leave the thread: it ends with vLLM."""

    def saw_status(self, status: int) -> None:
        """Count how vLLM answered a request."""

    async def failed(self) -> str:
        """Wait until vLLM is of no use any more; return a sentence that says why, without its full stop."""
        await self._ended.wait()
        failure = self._engine.failure()
        self.last_lines = failure.tail
        return f"vLLM has died: {failure.reason.rstrip('.')}"
