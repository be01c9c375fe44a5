"""Server-sent events, from bytes cut anywhere to the events.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

EVENT_LIMIT = 16 * 2**20  # bytes; no server means well beyond it
_LINE_LIMIT = 10_000  # lines of one event
_FIELDS = (b"", b"data", b"event", b"id", b"retry", b"error")  # the first: a comment's
_KEEP_ALIVES = (b"ping", b"keepalive", b"keep-alive", b"heartbeat")


class Event(msgspec.Struct, gc=False):
    """The data of one event; `is_error` where the stream itself names it an error."""

    data: bytes
    is_error: bool = False


class EventTooLargeError(Exception):
    """An event of more than EVENT_LIMIT bytes, or of more lines than any event has."""


class EventDecoder:
    """Decodes a stream of events; comments, ids and retry times are dropped.

    What comes out depends on the bytes alone, not on how they are cut into reads. `is_plausible` says that there was a
    line of such a stream, where there was no event.
    """

    def __init__(self) -> None:
        self._tail: list[bytes] = []  # the pieces of a line that has not ended
        self._tail_size = 0
        self._data: list[bytes] = []
        self._data_size = 0
        self._name = b""
        self._skip_newline = False
        self._clean = True  # nothing is pending: the next byte begins an event
        self.is_plausible = False

    def feed(self, data: bytes) -> Iterable[Event]:
        """Take the next bytes, return the events that they complete. Iterating raises EventTooLargeError."""
        if self._skip_newline and data:
            self._skip_newline = False
            data = data.removeprefix(b"\n")
        if b"\r" in data:
            self._skip_newline = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        # What nearly every read looks like: one event of one line, or several.
        if self._clean and data.startswith(b"data: ") and data.endswith(b"\n\n") and len(data) <= EVENT_LIMIT:
            lines = data[6:-2].split(b"\n\ndata: ")
            if data.count(b"\n") == 2 * len(lines):
                return [Event(line) for line in lines]
        return self._feed_lines(data)

    def finish(self) -> Iterator[Event]:
        """Yield the event that the end of the stream cut short."""
        yield from self._line(b"".join(self._tail))
        self._tail.clear()
        yield from self._line(b"")

    def _feed_lines(self, data: bytes) -> Iterator[Event]:
        self._clean = False
        first, *rest = data.split(b"\n")
        self._tail.append(first)
        self._tail_size += len(first)
        for line in rest:
            yield from self._line(b"".join(self._tail))
            self._tail = [line]
            self._tail_size = len(line)
        if self._data_size + self._tail_size > EVENT_LIMIT:
            raise EventTooLargeError
        self._clean = not (self._data or self._name or self._tail_size)
        if self._clean:
            self._tail.clear()

    def _line(self, line: bytes) -> Iterator[Event]:
        if not line:
            if self._data and self._name not in _KEEP_ALIVES:
                yield Event(b"\n".join(self._data), self._name == b"error")
            self._data.clear()
            self._data_size = 0
            self._name = b""
            return
        if self._data_size + len(line) > EVENT_LIMIT:
            raise EventTooLargeError
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        self.is_plausible = self.is_plausible or field in _FIELDS
        if field == b"data":
            self._data.append(value)
            self._data_size += len(line)
            if len(self._data) > _LINE_LIMIT:
                raise EventTooLargeError
        elif field == b"event":
            self._name = value.strip().lower()
        elif field == b"error" and value.strip():
            yield Event(value, is_error=True)  # llama.cpp's own field
        elif line.startswith((b"{", b"[DONE]")):
            yield Event(line)  # RunPod's gateway puts a worker's error between the events as bare JSON
