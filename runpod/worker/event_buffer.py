"""Server-sent events out of a stream of bytes, whole events only."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_BORDER = re.compile(rb"\r\n\r\n|\n\n|\r\r")
# The longest border, less one byte: what of the old bytes may belong to a border that the new ones complete.
_OVERLAP = 3


class EventBuffer:
    """Gather bytes; give texts that hold one or more whole events each, as long as `limit` bytes allow.

    A border between events is a blank line, which is ASCII: so no character is ever cut, and the bytes need not be
    decoded to be counted. Only an event that is longer than `limit` by itself is given in parts, between characters.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = bytearray()
        self._searched = 0

    @property
    def pending(self) -> bool:
        """Whether there is the beginning of an event."""
        return bool(self._bytes.strip())

    def feed(self, data: bytes) -> Iterator[str]:
        """Add bytes; yield the events that are whole now."""
        self._bytes += data
        whole = self._last_border()
        if not whole:
            return
        ready = bytes(self._bytes[:whole])
        del self._bytes[:whole]
        self._searched = 0
        start = 0
        while len(ready) - start > self._limit:
            end = self._cut(ready, start)
            yield ready[start:end].decode("utf-8", "replace")
            start = end
        yield ready[start:].decode("utf-8", "replace")

    def _last_border(self) -> int:
        """Return the end of the last border, or 0."""
        if self._bytes.endswith(b"\n\n"):  # as good as always: vLLM writes whole events
            return len(self._bytes)
        end = 0
        for match in _BORDER.finditer(self._bytes, max(0, self._searched - _OVERLAP)):
            end = match.end()
        self._searched = len(self._bytes)
        return end

    def _cut(self, ready: bytes, start: int) -> int:
        """Return where the piece that begins at `start` ends: at the last border within the limit, if there is one."""
        end = start
        for match in _BORDER.finditer(ready, start, start + self._limit):
            end = match.end()
        if end > start:
            return end
        end = start + self._limit
        while ready[end] & 0xC0 == 0x80:  # inside a character
            end -= 1
        return end
