"""vLLM's log as lines of text, whatever bytes it writes: bounded in memory, and safe for a terminal."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from client.terminal import sanitize

if TYPE_CHECKING:
    from collections.abc import Iterator

LINE_BYTES = 64 << 10  # of a line that are kept; nobody reads more of one
_CHUNK = 64 << 10


class LineReader:
    """Cut a stream of bytes into lines, however it arrives; a line's bytes beyond LINE_BYTES are dropped and counted.

    A progress bar redraws its line with carriage returns: its last state counts.
    """

    def __init__(self) -> None:
        self._state = bytearray()  # since the last carriage return
        self._dropped = 0
        self._before: str | None = None  # the state before that

    def feed(self, data: bytes) -> Iterator[str]:
        """Yield the lines that `data` completes, without their ends; blank ones are left out."""
        *complete, rest = data.split(b"\n")
        for piece in complete:
            self._take(piece)
            if (line := self._shown()) is not None:
                yield line
            self._state.clear()
            self._dropped, self._before = 0, None
        self._take(rest)

    def close(self) -> Iterator[str]:
        """Yield what came after the last newline, if anything did."""
        return self.feed(b"\n")

    def _take(self, piece: bytes) -> None:
        *redrawn, state = piece.split(b"\r")
        for earlier in redrawn:
            self._keep(earlier)
            self._before = self._shown()
            self._state.clear()
            self._dropped = 0
        self._keep(state)

    def _keep(self, data: bytes) -> None:
        room = LINE_BYTES - len(self._state)
        self._state += data[:room]
        self._dropped += max(0, len(data) - room)

    def _shown(self) -> str | None:
        text = sanitize(self._state.decode("utf-8", "replace")).rstrip()
        if self._dropped:
            text += f" ... ({self._dropped:,} bytes more)"
        return text or self._before


def read_lines(descriptor: int) -> Iterator[str]:
    """Yield the lines of a pipe to its end."""
    reader = LineReader()
    while data := os.read(descriptor, _CHUNK):
        yield from reader.feed(data)
    yield from reader.close()
