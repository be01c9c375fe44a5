"""What can go wrong at each call of the emulated platform, and when it does."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

# A worker's calls; `caller` is every call of a caller's.
CALLS = ("take", "stop", "stream", "done", "ping", "caller")

# Items that a batch of jobs has been seen to hold beside jobs.
ODD_ITEMS: tuple[Any, ...] = (
    None,
    "abc",
    7,
    [],
    {},
    {"input": {"prompt": "no id"}},
    {"id": None, "input": {}},
    {"id": "", "input": {}},
    {"id": {"a": 1}, "input": {}},
    {"id": "x" * 5000, "input": {}},
)


@dataclass(frozen=True)
class Accident:
    """One stumble.

    `kind` is `status` (the answer is `status` alone), `reset` (no answer: the connection is cut), `hang` (no answer,
    until the other side gives up) or `cut` (the connection is cut in the middle of an answer, 200), or, at `take`
    alone, `odd` (items that are no jobs beside those that are), `only-odd`, `empty`, `twice` (a job comes in this
    answer and again in the next), `text` (the jobs come as text/plain), `more` (there are more than were asked for),
    `html` and `broken` (an answer that is no JSON, and no job is lost). `after`: the call has its effect first, which
    at `take` means that the platform had the jobs in hand and queues them again. A `cut` answer is always after.
    """

    kind: str
    status: int = 0
    after: bool = False

    def __str__(self) -> str:
        return (str(self.status) if self.kind == "status" else self.kind) + ("-after" if self.after else "")

    @classmethod
    def read(cls, text: str) -> Accident:
        """Read what `str` writes: `429`, `500-after`, `reset`, `odd`. Raises ValueError."""
        name, _, when = text.partition("-") if text != "only-odd" else (text, "", "")
        if when not in ("", "after") or not (name.isdigit() or name in (*KINDS, *TAKE_KINDS)):
            kinds = ", ".join((*KINDS, *TAKE_KINDS))
            raise ValueError(f"{text!r} is no accident: use a status (429), {kinds}, or X-after")
        return cls("status", int(name), bool(when)) if name.isdigit() else cls(name, after=bool(when))


KINDS = ("reset", "hang", "cut")
TAKE_KINDS = ("odd", "only-odd", "empty", "twice", "text", "more", "html", "broken")


def none(_call: str) -> Accident | None:
    """Return no accident."""
    return None


def every(table: Mapping[str, Sequence[tuple[Accident, int]]]) -> Callable[[str], Accident | None]:
    """Return a source that makes an accident of every nth call."""
    counts = dict.fromkeys(table, 0)

    def source(call: str) -> Accident | None:
        if call not in counts:
            return None
        counts[call] += 1
        return next((accident for accident, n in table[call] if counts[call] % n == 0), None)

    return source


def scripted(table: Mapping[str, Iterable[Accident | None]]) -> Callable[[str], Accident | None]:
    """Return a source that gives each call its accidents in turn, and then none."""
    left = {call: deque(accidents) for call, accidents in table.items()}

    def source(call: str) -> Accident | None:
        return left[call].popleft() if left.get(call) else None

    return source


def dice(seed: int, shares: Mapping[str, tuple[float, Sequence[Accident]]]) -> Callable[[str], Accident | None]:
    """Return a source that throws dice: at each call, with the probability given, one of its accidents."""
    thrown = random.Random(seed)  # noqa: S311 (no secret)

    def source(call: str) -> Accident | None:
        share, accidents = shares.get(call, (0.0, ()))
        return thrown.choice(accidents) if thrown.random() < share else None

    return source
