"""A whole load test as one value, and as the JSON in which it is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import msgspec

from client.terminal import sanitize_line
from serving.bench.goal import Goal, carried, seconds_text
from serving.bench.level import Level, Planned  # noqa: TC001 - msgspec reads them
from serving.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = 1

Kind = Literal["users", "rate"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was asked of which server, with which goal, and what each load gave; `usd_per_hour` is the server's price.

    `kind` says what the loads count: users, or requests a second. `equal`: all answers have the length that was asked.
    """

    made: str
    target: str
    model: str
    commit: str | None
    kind: Kind
    prompt: int
    answer: tuple[int, int]
    equal: bool
    goal: Goal
    usd_per_hour: float | None
    planned: Planned
    levels: tuple[Level, ...]
    format: int = FORMAT

    @property
    def carried(self) -> Level | None:
        """Return the highest load that kept the goal."""
        return carried(self.levels, self.goal)

    @property
    def open_ended(self) -> bool:
        """Return whether even the highest load kept the goal, so that more may fit."""
        return bool(self.levels) and self.carried == self.levels[-1]

    def amount(self, load: float) -> str:
        """Return a load as one would say it: 8 users, 0.5 requests/s."""
        if self.kind == "users":
            return f"{load:.0f} user{'' if load == 1 else 's'}"
        return f"{load:g} requests/s"

    def usd_per_million(self, level: Level) -> float | None:
        """Return what a million written tokens cost at a load, None where no price is known or nothing was written."""
        if self.usd_per_hour is None or level.tokens_per_second <= 0:
            return None
        return self.usd_per_hour / (level.tokens_per_second * 3600) * 1e6

    def verdict(self) -> str:
        """Return the answer in one sentence."""
        best = self.carried
        if best is None:
            why = f": {self.goal.missed(self.levels[0])}" if self.levels else ""
            return f"Not even {self.amount(self.levels[0].load if self.levels else 1)} at {self.goal}{why}."
        more = "At least " if self.open_ended else ""
        return f"{more}{self.amount(best.load)} at {self.goal}."

    def remarks(self) -> list[str]:
        """Return what one must know to read the figures, a sentence each."""
        said = []
        best = self.carried
        broke = next((level for level in self.levels if self.goal.missed(level)), None)
        if best is not None and broke is not None:
            said.append(f"With {self.amount(broke.load)}, {self.goal.missed(broke)}.")
        if best is not None and (price := self.usd_per_million(best)) is not None:
            hourly = f"${self.usd_per_hour:g} an hour"
            said.append(f"At {self.amount(best.load)} a million written tokens cost ${price:.2f} ({hourly}).")
        said += [*self._cache(), *self._own_cost()]
        if not self.equal:
            said.append("The server takes no `ignore_eos`, so answers end where the model ends them: lengths differ.")
        if any(level.estimated for level in self.levels):
            said.append("The server does not count tokens: pieces are counted instead, which may hold several.")
        return said

    def _cache(self) -> list[str]:
        peaks = [level.server.kv_cache for level in self.levels if level.server and level.server.kv_cache is not None]
        if not peaks:
            return []
        planned = self.planned
        of = f" of the {planned.tokens:,} tokens planned" if planned.tokens else ""
        more = ""
        if planned.requests is not None and planned.length is not None:
            more = f"; the plan is {planned.requests:.1f} requests of {planned.length:,} tokens at once"
        return [f"The KV cache was filled to {max(peaks):.0%}{of}{more}."]

    def _own_cost(self) -> list[str]:
        said = [f"At {self.amount(level.load)} {level.client_limits}." for level in self.levels if level.client_limits]
        if said:
            return [f"{said[0]} The client may be the limit there, not the server: run the test elsewhere."]
        if not self.levels:
            return []
        own = max((level.own for level in self.levels), key=lambda own: own.cpu_share)
        late = max(level.own.late for level in self.levels)
        each = "" if own.cpu_us_per_token is None else f", {own.cpu_us_per_token:.0f} us of CPU a token"
        return [
            f"The test itself took at most {own.cpu_share:.0%} of one core{each}, and was at most "
            f"{seconds_text(late)} late: what was measured is the server."
        ]


def to_json(result: Result) -> bytes:
    """Return a result as JSON."""
    found: bytes = msgspec.json.format(msgspec.json.encode(result), indent=2)
    return found + b"\n"


def read(path: Path) -> Result:
    """Read a result that was kept. Raises ConfigurationError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Result)
    except OSError as error:
        raise ConfigurationError(f"{sanitize_line(str(path))} cannot be read: {error.strerror}.") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{sanitize_line(str(path))} is no result of `serving bench --save` ({sanitize_line(str(error))})."
        ) from error
