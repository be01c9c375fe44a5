"""The table of what vLLM's log says when something fails, read from `failure_texts.toml`."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TEXTS = Path(__file__).with_name("failure_texts.toml")


@dataclass(frozen=True)
class Failure:
    """One text of a log and what to do about it; the fields are explained at the head of the table."""

    pattern: re.Pattern[str]
    say: str
    seen: str
    text: str
    rank: int = 0
    hint: int | None = None


@cache
def failures() -> tuple[Failure, ...]:
    """Return the table, in its order."""
    rows = tomllib.loads(TEXTS.read_text(encoding="utf-8"))["failure"]
    return tuple(
        Failure(**(row | {"text": row.get("text", row["pattern"]), "pattern": re.compile(row["pattern"])}))
        for row in rows
    )


def markdown() -> str:
    """Return the table as the page of failures shows it."""
    lines = ["| in vLLM's log | what it means, and what to do | seen in |", "|---|---|---|"]
    for failure in failures():
        cells = (f"`{failure.text}`", re.sub(r"\{(\w+)\}", r"*\1*", failure.say), failure.seen)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)
