"""What vLLM says of its KV cache when it starts, read back to compare it with the plan."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from serving.planning.plan import Plan

TOLERANCE = 0.1

# Since 0.32 on one line, before on two.
_CAPACITY = re.compile(r"KV cache size: ([\d,]+) tokens")
_CONCURRENCY = re.compile(r"Maximum concurrency for ([\d,]+) tokens per request: ([\d.]+)x")


@dataclass(frozen=True)
class LoggedCapacity:
    """What vLLM logged: tokens in the KV cache, and how many requests of `max_model_len` tokens fit at once."""

    tokens: int
    max_model_len: int | None = None
    concurrency: float | None = None


def tells_capacity(line: str) -> bool:
    """Whether a line tells something of the capacity; vLLM logs such lines when it starts, and then no more."""
    return bool(_CAPACITY.search(line) or _CONCURRENCY.search(line))


def read_capacity(lines: Iterable[str]) -> LoggedCapacity | None:
    """Return the capacity in the lines of a start-up log, None if they do not tell it. The last one counts."""
    tokens: int | None = None
    length: int | None = None
    concurrency: float | None = None
    for line in lines:
        if match := _CAPACITY.search(line):
            tokens = int(match[1].replace(",", ""))
        if match := _CONCURRENCY.search(line):
            length, concurrency = int(match[1].replace(",", "")), float(match[2])
    return None if tokens is None else LoggedCapacity(tokens, length, concurrency)


def compare_with_log(plan: Plan, lines: Iterable[str]) -> str | None:
    """Return a sentence if what vLLM logged is more than 10 % from the plan, None if they agree or nothing was logged.

    Each copy of the model logs its own capacity, so the plan's is divided by the number of copies.
    """
    logged = read_capacity(lines)
    if logged is None or plan.kv_cache_tokens is None:
        return None
    copies = plan.data_parallel_size or 1
    planned = plan.kv_cache_tokens // copies
    if abs(logged.tokens - planned) <= TOLERANCE * planned:
        return None
    more = "more" if logged.tokens > planned else "less"
    share = abs(logged.tokens - planned) / max(planned, 1)
    sentence = f"The KV cache holds {logged.tokens:,} tokens, {share:.0%} {more} than the {planned:,} that were planned"
    if logged.concurrency is not None and logged.max_model_len is not None:
        sentence += f" ({logged.concurrency:.2f} requests of {logged.max_model_len:,} tokens at once)"
    return sentence + "."
