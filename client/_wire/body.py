"""The bytes of a response, taken into an answer: a stream of events, or a body that came instead of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from client._wire.answer import NotAnAnswer
from client._wire.chunk import is_chunk
from client._wire.sse import EVENT_LIMIT, EventDecoder, EventTooLargeError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from client._wire.answer import Answer
    from client._wire.sse import Event

_BOM = b"\xef\xbb\xbf"
_FIELDS = (b"data:", b"event:", b":", b"id:", b"retry:")


class BodyReader:
    """Takes the body of one response into `answer`; `typed` says whether its content type is that of events.

    The first bytes that are not blank decide which of the two it is, as soon as enough of them have arrived; blanks
    and a byte order mark before them are dropped. The methods return whether the answer is complete and raise
    ErrorFound, NotAnAnswer or CutShort for what is no answer or not a whole one.
    """

    def __init__(self, answer: Answer, *, typed: bool) -> None:
        self._answer = answer
        self._typed = typed
        self._decoder = EventDecoder()
        self._head = b""  # what has not yet shown what it is the beginning of
        self._is_stream: bool | None = None
        self._has_events = False
        self._whole: list[bytes] = []
        self._size = 0
        self._first_line = True

    def take(self, data: bytes) -> bool:
        """Take the next bytes."""
        if self._is_stream is None:
            data = self._head = _begun(self._head + data)
            self._is_stream = self._shows_a_stream(data)
            if self._is_stream is None:
                return False
        if self._is_stream:
            return self._add(self._decoder.feed(data))
        self._whole.append(data)
        self._size += len(data)
        if self._size > EVENT_LIMIT:
            raise NotAnAnswer(f"more than {EVENT_LIMIT} bytes that are no events")
        if self._first_line and b"\n" in data:
            self._first_line = False
            whole = b"".join(self._whole)
            if is_chunk(whole.partition(b"\n")[0]):  # JSON lines, which the decoder takes for events
                self._is_stream = True
                return self._add(self._decoder.feed(whole))
        return False

    def end(self) -> bool:
        """Take the end of the bytes."""
        answer = self._answer
        if self._is_stream:
            try:
                if self._add(self._decoder.finish()):
                    return True
            except NotAnAnswer:
                pass  # an event that was cut in its middle
            if not self._has_events and not self._decoder.is_plausible:
                raise NotAnAnswer("something that is no stream of events", self._head.decode("utf-8", "replace"))
            return answer.finish_reason is not None
        body = b"".join(self._whole) if self._is_stream is False else self._head
        return answer.add_whole(body) if body or not self._typed else False

    def _add(self, events: Iterable[Event]) -> bool:
        add = self._answer.add
        try:
            for event in events:
                self._has_events = True
                if add(event):
                    return True
        except EventTooLargeError:
            raise NotAnAnswer(f"more than {EVENT_LIMIT} bytes, or too many lines, in one piece") from None
        return False

    def _shows_a_stream(self, head: bytes) -> bool | None:
        """Return whether `head` begins a stream of events, whatever its type says; None while that is open."""
        if not head or (len(head) < len(_BOM) and _BOM.startswith(head)):
            return None
        if self._typed:
            return head[:1] not in (b"{", b"[", b"<")
        if head.startswith(_FIELDS):
            return True
        return None if any(field.startswith(head) for field in _FIELDS) else False


def _begun(head: bytes) -> bytes:
    """Return `head` from its first byte that says something."""
    head = head.lstrip()
    while head.startswith(_BOM):
        head = head[len(_BOM) :].lstrip()
    return head
