"""Quoting what a server sent: without keys, and short."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

QUOTE_LIMIT = 500
_READ_LIMIT = 20_000
MASK = "***"

# What keys look like, for those that we were not told: a server may echo another service's.
_KEYS = re.compile(r"(?i)(\bbearer\s+)[^\s\"'<>,]+|\b(?:sk|rpa|hf)[-_][\w-]{8,}")


def mask(text: str, keys: Iterable[str]) -> str:
    """Return `text` with each of `keys`, and whatever looks like one, replaced by `***`."""
    for key in sorted(keys, key=len, reverse=True):
        text = text.replace(key, MASK)
    return _KEYS.sub(lambda found: (found[1] or "") + MASK, text)


def quote(text: str, keys: Iterable[str]) -> str:
    """Return `text` fit for a message: masked, on one line, at most 500 characters long."""
    text = " ".join(mask(text[:_READ_LIMIT], keys).split())
    return text if len(text) <= QUOTE_LIMIT else text[: QUOTE_LIMIT - 1] + "…"
