"""What has arrived of an answer, and the pieces of text that nobody has taken yet."""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from client._wire.chunk import (
    NONE,
    Choice,
    Chunk,
    Delta,
    Usage,
    add_tool_calls,
    decode_chunk,
    lenient_chunk,
    loads,
    usage_of,
)
from client._wire.error_body import Problem, find_problem, job_state, read_problem
from client._wire.sse import ErrorData


class ProblemFound(Exception):
    """Signal that the server sent an error where a piece of the answer was due."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem


class NotAnAnswer(Exception):
    """Signal something that is neither a piece of an answer nor an error; `what` completes "the server sent ..."."""

    def __init__(self, what: str, quoted: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.quoted = quoted


class CutShort(Exception):
    """Signal that the server itself gave the answer up: vLLM's finish reasons `abort` and `error`."""


class Answer:
    """Collect an answer, piece by piece.

    `ready` holds the pieces of text to hand out, `progressed` tells whether the last piece brought anything of the
    answer, `done` whether the server said that it was the last.
    """

    def __init__(self) -> None:
        self.ready: deque[str] = deque()
        self.parts: list[str] = []
        self.reasoning: list[str] = []
        self.tool_calls: list[dict[str, Any]] = []
        self.finish_reason: str | None = None
        self.usage: Usage | None = None
        self.id: str | None = None
        self._first = True
        self._half = ""
        self.pieces = 0
        self.progressed = False
        self.done = False

    @property
    def text(self) -> str:
        """Return the text so far."""
        return "".join(self.parts)

    def add(self, data: bytes) -> None:
        """Take the data of one event. Raises ProblemFound or NotAnAnswer."""
        try:
            chunk = decode_chunk(data)
        except (msgspec.DecodeError, ValueError, RecursionError):
            self._add_odd(data)
            return
        if self._first or chunk.choices is msgspec.UNSET or chunk.error is not NONE or type(data) is not bytes:
            self._look_closer(data, chunk)
        self.add_chunk(chunk)

    def add_chunk(self, chunk: Chunk) -> None:
        """Take one chunk (or a whole completion); of several choices, the first."""
        if chunk.usage is not NONE:
            self.usage = usage_of(chunk.usage) or self.usage
        if not chunk.choices:
            return
        choice = chunk.choices[0]
        if choice.index:
            return
        delta = choice.delta or choice.message
        if delta is not None:
            if delta.content:
                self.parts.append(delta.content)
                self.ready.append(delta.content)
                self.pieces += 1
                self.progressed = True
            reasoning = delta.reasoning or delta.reasoning_content
            if reasoning:
                self.reasoning.append(reasoning)
                self.pieces += 1
                self.progressed = True
            if delta.tool_calls is not NONE and add_tool_calls(self.tool_calls, delta.tool_calls):
                self.pieces += 1
                self.progressed = True
        if choice.finish_reason is not None:
            self._finish(choice.finish_reason)

    def add_object(self, chunk: Any) -> None:
        """Take a chunk object that did not come from our decoder, such as a test's mock: no demands on it."""
        from pydantic import BaseModel  # loaded on first use

        if issubclass(type(chunk), BaseModel):  # the SDK's own class
            self.add_chunk(lenient_chunk(chunk.model_dump(warnings=False)))
            return
        choices = getattr(chunk, "choices", None)
        if not choices:
            return
        content = getattr(getattr(choices[0], "delta", None), "content", None)
        finish = getattr(choices[0], "finish_reason", None)
        self.add_chunk(
            Chunk(
                choices=[
                    Choice(
                        delta=Delta(content=content if isinstance(content, str) else None),
                        finish_reason=finish if isinstance(finish, str) else None,
                    )
                ]
            )
        )

    def add_message(self, message: Any) -> None:
        """Take the message of a whole completion that did not come from our decoder; None for none."""
        content = getattr(message, "content", None)
        self.add_chunk(Chunk(choices=[Choice(message=Delta(content=content if isinstance(content, str) else None))]))
        self.done = True

    def add_whole(self, body: bytes) -> None:
        """Take a body that is no stream of events. Raises ProblemFound or NotAnAnswer where it is no answer either."""
        text = body.decode("utf-8", "replace").strip().removeprefix("\ufeff")
        if not text:
            raise NotAnAnswer("an empty body")
        try:
            decoded = loads(text)
        except (ValueError, RecursionError):
            raise NotAnAnswer("a web page" if text.startswith("<") else "something that is not JSON", text) from None
        _check(decoded, text)
        chunk = lenient_chunk(decoded) if isinstance(decoded, dict) else Chunk()
        if not chunk.choices or (chunk.choices[0].message or chunk.choices[0].delta) is None:
            raise NotAnAnswer("a body without an answer in it", text)
        self.add_chunk(chunk)
        self.done = True

    def _add_odd(self, data: bytes) -> None:
        """Take data that is not what the decoder is made for: another type, bad UTF-8, several documents."""
        try:
            body = loads(data)
        except (ValueError, RecursionError):
            if data.startswith(b"[DONE]"):
                self.done = True
                return
            if b"\n" in data:  # `data:` lines without the blank line between them
                for line in data.split(b"\n"):
                    self.add(line)
                return
            text = data.decode("utf-8", "replace")
            if type(data) is ErrorData:
                raise ProblemFound(read_problem(text)) from None
            raise NotAnAnswer("a chunk that is not JSON", text) from None
        text = data.decode("utf-8", "replace")
        if type(data) is ErrorData:
            raise ProblemFound(read_problem(body))
        _check(body, text)
        if not isinstance(body, dict):
            raise NotAnAnswer("a chunk of another shape", text)
        chunk = lenient_chunk(body)
        self._join_halves(chunk)
        self.add_chunk(chunk)

    def _join_halves(self, chunk: Chunk) -> None:
        """Join a character that a server cut between two chunks, half an escape (`\\ud83d`, `\\ude00`) in each."""
        delta = chunk.choices[0].delta if chunk.choices else None
        if delta is None or not delta.content:
            return
        text = self._half + delta.content
        self._half = text[-1] if "\ud800" <= text[-1] <= "\udbff" else ""
        text = text.removesuffix(self._half) if self._half else text
        delta.content = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def _look_closer(self, data: bytes, chunk: Chunk) -> None:
        self._first = False
        body = loads(data)
        if type(data) is ErrorData:
            raise ProblemFound(read_problem(body))
        if chunk.choices is msgspec.UNSET or chunk.error is not NONE:
            _check(body, data.decode("utf-8", "replace"))
        if isinstance(body, dict) and isinstance(body.get("id"), str):
            self.id = body["id"]

    def _finish(self, reason: str) -> None:
        if reason in ("abort", "error"):
            raise CutShort(f"finish reason {reason!r}")
        self.finish_reason = reason
        self.progressed = True


def _check(body: object, text: str) -> None:
    """Raise ProblemFound or NotAnAnswer if `body` is an error or a job's status."""
    problem = find_problem(body)
    if problem is not None:
        raise ProblemFound(problem)
    state = job_state(body)
    if state is not None:
        raise NotAnAnswer(f"the status of a job ({state})", text)
