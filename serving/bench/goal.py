"""What a user shall get, and how far up the load goes before it is not got."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from client.terminal import sanitize_line

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from serving.bench.level import Level

ERRORS_ALLOWED = 0.01
FINENESS = 8  # the answer is looked for until it is known to one part in so many


@dataclass(frozen=True)
class Goal:
    """The longest wait for the first token, in seconds, and the least tokens a second, of 19 requests of 20."""

    first_token: float
    speed: float

    def __str__(self) -> str:
        return f"a first token below {seconds_text(self.first_token)} and {self.speed:g} tokens/s each"

    def missed(self, level: Level) -> str:
        """Return what of the goal a load missed, "" if it was kept."""
        failed = sum(level.errors.values())
        if failed > ERRORS_ALLOWED * level.requests:
            return (
                f"{failed} of {level.requests} requests failed ({', '.join(sorted(map(sanitize_line, level.errors)))})"
            )
        if level.first_token is None:
            return "no request was answered"
        if level.first_token.tail > self.first_token:
            return f"the first token takes up to {seconds_text(level.first_token.tail)} (19 of 20 requests)"
        if level.speed is not None and level.speed.tail < self.speed:
            return f"a user gets no more than {level.speed.tail:.1f} tokens/s (1 of 20 requests)"
        return ""


def seconds_text(seconds: float) -> str:
    """Return a time as one would say it: 480 ms, 1.25 s."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.3g} s"


def read_seconds(text: str) -> float:
    """Read a time: 500ms, 0.5s, 0.5. Raises ValueError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(ms|s|)\s*", text)
    if found is None or float(found[1]) <= 0:
        raise ValueError(text)
    return float(found[1]) / (1000 if found[2] == "ms" else 1)


async def climb(loads: Sequence[int | float], measure: Callable[[float], Awaitable[Level]], goal: Goal) -> list[Level]:
    """Measure loads in turn, up to the first that misses the goal."""
    levels: list[Level] = []
    for load in loads:
        levels.append(await measure(load))
        if goal.missed(levels[-1]):
            break
    return levels


async def climb_and_narrow(most: int, measure: Callable[[float], Awaitable[Level]], goal: Goal) -> list[Level]:
    """Measure 1, 2, 4, ... users up to the first number that misses the goal, then between that and the one before."""
    doubling = [2**power for power in range(most.bit_length()) if 2**power <= most]
    levels = await climb(doubling if doubling[-1] == most else [*doubling, most], measure, goal)
    if not goal.missed(levels[-1]) or len(levels) == 1:
        return levels
    kept, missed = int(levels[-2].load), int(levels[-1].load)
    while missed - kept > max(1, kept // FINENESS):
        between = (kept + missed) // 2
        levels.append(await measure(between))
        kept, missed = (kept, between) if goal.missed(levels[-1]) else (between, missed)
    return sorted(levels, key=lambda level: level.load)


def carried(levels: Sequence[Level], goal: Goal) -> Level | None:
    """Return the highest load up to which the goal was kept, None if it was never."""
    best = None
    for level in levels:
        if goal.missed(level):
            break
        best = level
    return best
