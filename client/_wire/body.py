"""The bytes of a response, taken into an answer: a stream of events, or a body that came instead of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from client._wire.answer import NotAnAnswer
from client._wire.sse import EVENT_LIMIT, EventDecoder, EventTooLargeError

if TYPE_CHECKING:
    from client._wire.answer import Answer

_FIELDS = (b"data", b"event", b":", b"id", b"retry")


class Body:
    """Take the body of one response into `answer`. `typed` tells whether its content type is that of events.

    The methods raise ProblemFound, NotAnAnswer or CutShort for what is no answer or not a whole one.
    """

    def __init__(self, answer: Answer, *, typed: bool) -> None:
        self._answer = answer
        self._typed = typed
        self._decoder = EventDecoder()
        self._whole: list[bytes] | None = None
        self._size = 0

    def take(self, data: bytes) -> None:
        """Take the next bytes."""
        decoder = self._decoder
        if decoder.started or (self._whole is None and self._is_events(data)):
            answer = self._answer
            try:
                for event in decoder.feed(data):
                    answer.add(event)
                    if answer.done:
                        return
            except EventTooLargeError:
                raise NotAnAnswer(f"more than {EVENT_LIMIT} bytes in one piece") from None
            return
        if self._whole is None:
            self._whole = []
        self._whole.append(data)
        self._size += len(data)
        if self._size > EVENT_LIMIT:
            raise NotAnAnswer(f"more than {EVENT_LIMIT} bytes that are no events")

    def end(self) -> bool:
        """Take the end of the bytes; tell whether the answer is complete."""
        answer = self._answer
        if self._whole is not None:
            answer.add_whole(b"".join(self._whole))
            return True
        for event in self._decoder.finish():
            try:
                answer.add(event)
            except NotAnAnswer:
                break  # cut in the middle of an event
        if answer.finish_reason is None and not answer.done:
            if not self._decoder.started and not self._typed:
                raise NotAnAnswer("an empty body")
            return False
        return True

    def _is_events(self, data: bytes) -> bool:
        """Tell by the first bytes whether this is a stream of events, whatever its type says."""
        head = data.removeprefix(b"\xef\xbb\xbf").lstrip()
        if self._typed:
            return head[:1] not in (b"{", b"[", b"<")
        return bool(head) and (head.startswith(_FIELDS) or any(field.startswith(head) for field in _FIELDS))
