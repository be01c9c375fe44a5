"""What came of the requests of one load, in figures. Times are in seconds of one clock, shares from 0 to 1."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

TAIL = 0.95
"""The share of the requests that must keep a goal, and that `Spread.tail` speaks of."""

FULL_CPU = 0.85
LATE_SHARE = 0.1
LATE_S = 0.01


@dataclass(frozen=True, slots=True)
class Asked:
    """One request and what came of it: when it was due, its first and last piece, its tokens, or its error's class."""

    due: float
    first: float | None
    last: float
    tokens_in: int = 0
    tokens_out: int = 0
    error: str | None = None
    estimated: bool = False

    @property
    def speed(self) -> float | None:
        """Return the tokens a second after the first, None for an answer that has no two at two times."""
        if self.error or self.first is None or self.tokens_out < 2 or self.last <= self.first:
            return None
        return (self.tokens_out - 1) / (self.last - self.first)

    def tokens_within(self, begin: float, end: float) -> float:
        """Return how many of its tokens came in a stretch of time, as if they came evenly."""
        if self.first is None:
            return 0.0
        if self.last <= self.first:
            return float(self.tokens_out) if begin <= self.first <= end else 0.0
        within = max(0.0, min(self.last, end) - max(self.first, begin))
        return self.tokens_out * within / (self.last - self.first)


@dataclass(frozen=True)
class Spread:
    """The median of many, and the value that 19 of 20 keep: the 95th percentile of times, the 5th of speeds."""

    median: float
    tail: float

    @classmethod
    def of(cls, values: Iterable[float | None], *, more_is_better: bool = False) -> Spread | None:
        """Return the spread of the values that are known, None where none is."""
        known = sorted((value for value in values if value is not None), reverse=more_is_better)
        if not known:
            return None
        return cls(statistics.median(known), known[math.ceil(TAIL * len(known)) - 1])


@dataclass(frozen=True)
class OwnCost:
    """What the load test itself cost: the share of one core, CPU per token, how late its clock ran (19 of 20)."""

    cpu_share: float
    cpu_us_per_token: float | None
    late: float


@dataclass(frozen=True)
class ServerView:
    """What the server said of itself meanwhile: the peaks of its gauges, and how often it had to preempt."""

    kv_cache: float | None = None
    running: float | None = None
    waiting: float | None = None
    preemptions: float | None = None


@dataclass(frozen=True)
class Planned:
    """What the server was planned to carry, as it says itself."""

    tokens: int | None = None
    requests: float | None = None
    length: int | None = None


@dataclass(frozen=True, kw_only=True)
class Level:
    """One load (`load` users, or requests a second) and what was measured under it."""

    load: float
    seconds: float
    requests: int
    errors: dict[str, int]
    tokens_per_second: float
    prompt_tokens_per_second: float
    requests_per_second: float
    at_once: float
    first_token: Spread | None
    speed: Spread | None
    whole: Spread | None
    estimated: bool
    own: OwnCost
    server: ServerView | None = None

    @property
    def client_limits(self) -> str:
        """Return why the client rather than the server may be what limits here, "" where it is not."""
        if self.own.cpu_share >= FULL_CPU:
            return f"the client took {self.own.cpu_share:.0%} of the one core that it can use"
        if self.first_token and self.own.late >= max(LATE_S, LATE_SHARE * self.first_token.median):
            return f"the client's own clock ran {self.own.late * 1000:.0f} ms late: its machine is too busy"
        return ""


def measured(
    load: float,
    asked: Sequence[Asked],
    began: float,
    ended: float,
    own: OwnCost,
    server: ServerView | None = None,
    before: Sequence[Asked] = (),
) -> Level:
    """Return the figures of the requests that were due between `began` and `ended`.

    Rates are those of that time, to which what was due `before` it adds; what a request did afterwards counts for its
    own times alone.
    """
    whole = [one for one in asked if one.error is None]
    flowing = [*whole, *(one for one in before if one.error is None)]
    seconds = ended - began
    return Level(
        load=load,
        seconds=seconds,
        requests=len(asked),
        errors=dict(Counter(one.error for one in asked if one.error is not None)),
        tokens_per_second=sum(one.tokens_within(began, ended) for one in flowing) / seconds,
        prompt_tokens_per_second=sum(
            one.tokens_in for one in flowing if one.first is not None and began < one.first <= ended
        )
        / seconds,
        requests_per_second=sum(began < one.last <= ended for one in flowing) / seconds,
        at_once=sum(min(one.last, ended) - max(one.due, began) for one in flowing) / seconds,
        first_token=Spread.of(None if one.first is None else one.first - one.due for one in whole),
        speed=Spread.of((one.speed for one in whole), more_is_better=True),
        whole=Spread.of(one.last - one.due for one in whole),
        estimated=any(one.estimated for one in whole),
        own=own,
        server=server,
    )
