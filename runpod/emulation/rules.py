"""How the emulated platform behaves: delays, limits, and the accidents that can be asked for."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from emulation.accidents import Accident, none

if TYPE_CHECKING:
    from collections.abc import Callable

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
    """What the platform does to calls. Times are seconds.

    `latency` maps a worker's call (take, stop, stream, done, ping) or `caller` to its delay; `too_many` maps one to n:
    every nth is answered 429; `accidents` says what else happens to a call. `gateway_cut`: the gateway cuts a caller's
    connection to /openai and /runsync after so long (RunPod's has been seen to do it at 60 s).
    """

    latency: dict[str, float] = field(default_factory=dict)
    too_many: dict[str, int] = field(default_factory=dict)
    accidents: Callable[[str], Accident | None] = none
    gateway_cut: float | None = None
    webhook_pause: float = 10.0
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
        """Wait for the latency of one call."""
        if seconds := self.latency.get(call, 0.0):
            await asyncio.sleep(seconds)

    def accident(self, call: str) -> Accident | None:
        """Return what happens to this call, if anything does."""
        self._calls[call] = self._calls.get(call, 0) + 1
        every = self.too_many.get(call)
        if every is not None and self._calls[call] % every == 0:
            return Accident("status", 429)
        return self.accidents(call)

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
