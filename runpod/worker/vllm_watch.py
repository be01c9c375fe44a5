"""Whether vLLM is still of use: it may end by itself, or go on running and help nobody."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Self

from serving.engine.watchdog import EVERY_S, Watchdog, look

if TYPE_CHECKING:
    from collections.abc import Callable

    from serving.engine.process import Engine


class VllmWatch:
    """Watch one vLLM that is ready. Use as `async with VllmWatch(...) as watch:`, within one event loop.

    `in_hand` returns how many requests wait for an answer of vLLM's. `last_lines` are of vLLM's log, once it has died.
    """

    def __init__(
        self,
        engine: Engine,
        key: str | None,
        *,
        stalled_after: float,
        in_hand: Callable[[], int] = lambda: 0,
    ) -> None:
        self._engine = engine
        self._key = key
        self._stalled_after = stalled_after
        self._in_hand = in_hand
        self._statuses: deque[int] = deque()  # for the thread, which empties it
        self._failed: asyncio.Future[str] | None = None
        self._left = threading.Event()
        self.last_lines: tuple[str, ...] = ()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._failed = failed = loop.create_future()

        def tell(reason: str) -> None:
            if not failed.done():
                failed.set_result(reason)

        def watch() -> None:
            reason = self._watch(Watchdog(time.monotonic(), stalled_after=self._stalled_after))
            with contextlib.suppress(RuntimeError):  # the loop is over
                loop.call_soon_threadsafe(tell, reason)

        threading.Thread(target=watch, name="vllm-watch", daemon=True).start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._left.set()

    def saw_status(self, status: int) -> None:
        """Count how vLLM answered a request."""
        self._statuses.append(status)

    async def failed(self) -> str:
        """Wait until vLLM is of no use any more; return a sentence that says why, without its full stop."""
        assert self._failed is not None
        return await asyncio.shield(self._failed)

    def _watch(self, watchdog: Watchdog) -> str:
        while self._engine.wait(EVERY_S) is None and not self._left.is_set():
            while self._statuses:
                watchdog.saw_end(self._statuses.popleft(), time.monotonic())
            reason = watchdog.judge(look(self._engine, self._key), time.monotonic(), in_hand=self._in_hand())
            if reason is not None and self._engine.poll() is None:
                self._engine.kill()  # no request of a sick one may hold up the end
                return reason
        if self._engine.poll() is None:
            return "vLLM is left alone"  # nobody watches any more
        failure = self._engine.failure()
        self.last_lines = failure.tail
        return f"vLLM has died: {failure.reason.rstrip('.')}"
