"""Server-sent events, from bytes cut anywhere to the data of each event.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

EVENT_LIMIT = 16 * 2**20  # bytes; no server means well beyond it
_BOM = b"\xef\xbb\xbf"


class ErrorData(bytes):
    """Be the data of an event that was named `error`."""

    __slots__ = ()


class EventTooLargeError(Exception):
    """Signal an event of more than EVENT_LIMIT bytes."""


class EventDecoder:
    """Decode a stream of events; comments, ids and retry times are dropped."""

    def __init__(self) -> None:
        self._tail: list[bytes] = []  # the pieces of a line that has not ended
        self._data: list[bytes] = []
        self._name = b""
        self._size = 0
        self._skip_newline = False
        self._clean = True  # nothing is pending: the next byte begins an event
        self.started = False

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes, return the data of each event that they complete."""
        if self._skip_newline and data:
            self._skip_newline = False
            data = data.removeprefix(b"\n")
        if b"\r" in data:
            self._skip_newline = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        # What nearly every read looks like: one event of one line, or several.
        if self._clean and data.startswith(b"data: ") and data.endswith(b"\n\n"):
            events = data[6:-2].split(b"\n\ndata: ")
            if data.count(b"\n") == 2 * len(events):
                self.started = True
                return events
        return self._feed_lines(data)

    def finish(self) -> list[bytes]:
        """Return the data of an event that the end of the stream cut short."""
        events: list[bytes] = []
        self._line(b"".join(self._tail), events)
        self._tail.clear()
        self._line(b"", events)
        return events

    def _feed_lines(self, data: bytes) -> list[bytes]:
        events: list[bytes] = []
        first, *rest = data.split(b"\n")
        self._tail.append(first)
        self._size += len(data)
        if self._size > EVENT_LIMIT:
            raise EventTooLargeError
        for line in rest:
            self._line(b"".join(self._tail), events)
            self._tail = [line]
        self._clean = not (self._data or self._name or any(self._tail))
        if self._clean:
            self._tail.clear()
            self._size = 0
        return events

    def _line(self, line: bytes, events: list[bytes]) -> None:
        if not self.started and line:
            self.started = True
            line = line.removeprefix(_BOM)
        if not line:
            if self._data:
                data = b"\n".join(self._data)
                events.append(ErrorData(data) if self._name == b"error" else data)
                self._data.clear()
            self._name = b""
            return
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._name = value
        elif line.startswith(b"{"):
            events.append(line)  # RunPod's gateway puts a worker's error between the events as bare JSON
