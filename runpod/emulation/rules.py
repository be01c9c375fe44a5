"""How the emulated platform behaves: delays, limits, and the accidents that can be asked for."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field

# Requests per 10 s and endpoint, and how many at the same time, by caller's call (RunPod's documentation).
RATES = {
    "run": (1000, 200),
    "runsync": (2000, 400),
    "status": (2000, 400),
    "stream": (2000, 400),
    "openai": (2000, 400),
    "cancel": (100, 20),
    "purge-queue": (2, 2),
}
RATE_WINDOW_S = 10.0


@dataclass
class Rules:
    """Say what the platform does to calls. Times are seconds.

    `latency` maps a worker's call (take, stop, stream, done, ping) or `caller` to its delay; `too_many` maps one to n:
    every nth is answered 429.
    """

    latency: dict[str, float] = field(default_factory=dict)
    too_many: dict[str, int] = field(default_factory=dict)
    cold_start: float = 0.0
    hold: float = 20.0
    lost_after: float = 60.0
    vanish_after_chunks: int | None = None
    rate_limits: bool = True
    failed_openai_status: int = 500
    _calls: dict[str, int] = field(default_factory=dict)
    _recent: dict[str, deque[float]] = field(default_factory=dict)
    _open: dict[str, int] = field(default_factory=dict)

    async def delay(self, call: str) -> None:
        """Let the latency of one call pass."""
        if seconds := self.latency.get(call, 0.0):
            await asyncio.sleep(seconds)

    def refuses(self, call: str) -> bool:
        """Tell whether this call is one of those that are answered 429."""
        self._calls[call] = self._calls.get(call, 0) + 1
        every = self.too_many.get(call)
        return every is not None and self._calls[call] % every == 0

    def enter(self, call: str) -> bool:
        """Count a caller's call in; return False when it is over the platform's rates."""
        self._open[call] = self._open.get(call, 0) + 1
        if call not in RATES or not self.rate_limits:
            return True
        per_window, at_once = RATES[call]
        now = time.monotonic()
        recent = self._recent.setdefault(call, deque())
        while recent and now - recent[0] > RATE_WINDOW_S:
            recent.popleft()
        recent.append(now)
        return len(recent) <= per_window and self._open[call] <= at_once

    def leave(self, call: str) -> None:
        """Count a caller's call out."""
        self._open[call] -= 1
