"""Quoting what a server sent: without keys, and short."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from client.terminal import sanitize_line

if TYPE_CHECKING:
    from collections.abc import Collection

QUOTE_LIMIT = 500
_READ_LIMIT = 20_000
MASK = "***"

# What keys look like, for those that we were not told: a server may echo another service's.
_KEYS = re.compile(r"(?i)(\bbearer\s+)[^\s\"'<>,]+|\b(?:sk|rpa|hf)[-_][\w-]{8,}")


def mask(text: str, keys: Collection[str]) -> str:
    """Return `text` with each of `keys`, and whatever looks like one, replaced by `***`; no more than is ever read."""
    cut = len(text) > _READ_LIMIT
    text = text[:_READ_LIMIT]
    for key in sorted(keys, key=len, reverse=True):
        text = text.replace(key, MASK)
    text = _KEYS.sub(lambda found: (found[1] or "") + MASK, text)
    return text[: -len(max(keys, key=len, default=""))] + "…" if cut and keys else text  # it may end in half a key


def quote(text: str, keys: Collection[str]) -> str:
    """Return `text` fit for a message: masked, on one line, safe for a terminal, at most 500 characters long."""
    text = sanitize_line(mask(text, keys))
    return text if len(text) <= QUOTE_LIMIT else text[: QUOTE_LIMIT - 1] + "…"
