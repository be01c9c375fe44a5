"""What has arrived of an answer, and the pieces of text that nobody has taken yet."""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

from client._wire.chunk import (
    NONE,
    Choice,
    Chunk,
    Usage,
    clean,
    decode_chunk,
    dumps,
    lenient_chunk,
    loads,
    reasoning_in,
    usage_of,
)
from client._wire.error_body import ErrorBody, find_error, job_state, read_error
from client._wire.tool_calls import ToolCalls

if TYPE_CHECKING:
    from client._wire.sse import Event

# About the bytes that an answer may keep: far beyond what a model writes, and a bound for a server that never ends.
_LIMIT = 256 * 2**20
_PER_PIECE = 64

_NO_REASONS = ("", "none", "null", "finish_reason_unspecified")
_GIVEN_UP = frozenset(
    {
        "abort",
        "aborted",
        "cancelled",
        "canceled",
        "failed",
        "timeout",
        "insufficient_system_resource",  # DeepSeek's
        "malformed_function_call",  # Gemini's
        "unexpected_tool_call",
    }
)
# What some servers put into `data:` while there is nothing to say, beside nothing and comments.
_KEEP_ALIVE = re.compile(rb"(?i)[\[\"']*(ping|pong|keep[-_ ]?alive|heartbeat|processing|null)?[\]\"']*")
_KEEP_ALIVE_LIMIT = 32  # bytes
_WRAPPED = re.compile(rb"\A(?:data:\s*)+")


class ErrorFound(Exception):
    """The server sent an error where a piece of the answer was due."""

    def __init__(self, error: ErrorBody) -> None:
        super().__init__()
        self.error = error


class NotAnAnswer(Exception):
    """Something that is neither a piece of an answer nor an error; `what` completes "the server sent ..."."""

    def __init__(self, what: str, quoted: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.quoted = quoted


class CutShort(Exception):
    """The server itself gave the answer up, with a finish reason such as vLLM's `abort` and `error`."""


class Answer:
    """Collects an answer, piece by piece.

    `ready` holds the pieces of text to hand out; `pieces` counts whatever brought the answer on. A refusal is text
    too: it is what the model says. `settled` says that after the finish reason nothing but the usage is due.
    `several` says that more than one choice was asked for, of which the one with index 0 counts. Where one was, its
    index says nothing: TGI counted the tokens in it, and LiteLLM the blocks of Bedrock's answers.
    """

    def __init__(self, *, several: bool = False) -> None:
        self.ready: deque[str] = deque()
        self.parts: list[str] = []
        self.reasoning: list[str] = []
        self.refusals: list[str] = []
        self.logprobs: list[dict[str, Any]] | None = None
        self.finish_reason: str | None = None
        self.settled = False
        self.usage: Usage | None = None
        self.id: str | None = None
        self.model: str | None = None
        self.pieces = 0
        self._several = several
        self._tool_calls = ToolCalls()
        self._size = 0
        self._look_closer = True
        self._half = ""

    @property
    def text(self) -> str:
        """Return the text so far."""
        return "".join(self.parts)

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """Return the tool calls so far."""
        return self._tool_calls.calls

    @property
    def only_reasoning(self) -> bool:
        """Return whether the model has done nothing yet but think."""
        return bool(self.reasoning) and not self.parts and not self.tool_calls

    def add(self, event: Event) -> bool:
        """Take one event; return whether it says that nothing follows.

        Raises ErrorFound, NotAnAnswer or CutShort.
        """
        try:
            chunk = decode_chunk(event.data)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return self._add_odd(event)
        if self._look_closer or not chunk.choices or chunk.error is not NONE or event.is_error:
            self._check_chunk(event, chunk)
        self.add_chunk(chunk)
        return False

    def add_chunk(self, chunk: Chunk) -> None:
        """Take one chunk (or a whole completion); of several choices, the first."""
        if chunk.usage is not NONE:
            self._take_usage(chunk.usage)
        if chunk.x_groq is not NONE:
            self._take_groqs(chunk.x_groq)
        if not chunk.choices:
            return
        choice = chunk.choices[0]
        if choice.index:
            found = next((other for other in chunk.choices if not other.index), None)
            if found is None and self._several:
                return
            choice = found or choice
        before = self.pieces
        delta = choice.delta or choice.message
        if delta is not None:
            if delta.content:
                self._add_text(delta.content)
            reasoning = delta.reasoning or delta.reasoning_content or delta.thinking or delta.reasoning_text
            if not reasoning and delta.reasoning_details is not NONE:
                reasoning = reasoning_in(delta.reasoning_details)
            if reasoning:
                self.reasoning.append(reasoning)
                self._count(len(reasoning))
            if delta.refusal:
                self.refusals.append(delta.refusal)
                self._add_text(delta.refusal)
            if delta.tool_calls is not NONE and self._tool_calls.add(delta.tool_calls):
                self._count(len(bytes(delta.tool_calls)))
            if delta.function_call is not NONE and self._tool_calls.add_function_call(delta.function_call):
                self._count(len(bytes(delta.function_call)))
        elif choice.text:
            self._add_text(choice.text)
        if choice.logprobs is not None:
            self._add_logprobs(choice.logprobs)
        if choice.usage is not NONE:
            self._take_usage(choice.usage)
        if choice.error is not NONE and (error := loads(bytes(choice.error))):
            raise ErrorFound(read_error(error))  # OpenRouter's place for it
        if choice.finish_reason:
            self._finish(choice, alone=self.pieces == before)
        elif self.finish_reason is not None and self.pieces != before:
            self.settled = False  # it was not the end after all

    def add_whole(self, body: bytes) -> bool:
        """Take a body that is no stream of events; return whether it is a whole answer.

        Raises ErrorFound, CutShort, or NotAnAnswer where it is no answer at all.
        """
        text = body.decode("utf-8", "replace").strip().removeprefix("\ufeff")
        if not text:
            raise NotAnAnswer("an empty body")
        try:
            decoded = loads(text)
        except ValueError:
            raise NotAnAnswer("a web page" if text.startswith("<") else "something that is not JSON", text) from None
        _raise_for(decoded, text)
        bodies = decoded if isinstance(decoded, list) else [decoded]  # a list of chunks, as Gemini's own API sends
        bodies = [one for one in bodies if isinstance(one, dict)]
        chunks = [lenient_chunk(one) for one in bodies]
        firsts = [chunk.choices[0] for chunk in chunks if chunk.choices]
        if not any(first.message or first.delta or first.text for first in firsts):
            raise NotAnAnswer("a body without an answer in it", text)
        for one, chunk in zip(bodies, chunks, strict=True):
            _raise_for(one, text)
            self._take_names(one)
            self._add_lenient(chunk)
        return self.finish_reason is not None or any(first.delta is None for first in firsts)

    def _add_odd(self, event: Event) -> bool:
        """Take data that is not what the decoder is made for: another type, bad UTF-8, several documents."""
        data = event.data
        if not event.is_error:
            word = data.strip()
            if word[:8].strip(b'"').upper().startswith(b"[DONE]") or word.upper() == b"DONE":
                if self.finish_reason is None and not self.pieces:
                    raise NotAnAnswer("[DONE] and no answer before it")
                return True
            if word.startswith(b":") or (len(word) < _KEEP_ALIVE_LIMIT and _KEEP_ALIVE.fullmatch(word)):
                return False
            if word.startswith(b"data:"):  # an event within an event: what was ready to send was wrapped once more
                return self.add(type(event)(_WRAPPED.sub(b"", word)))
        try:
            body = loads(data)
            if isinstance(body, str) and body[:1] in ("{", "["):  # JSON within JSON, likewise
                data = body.encode("utf-8", "surrogatepass")
                body = loads(data)
        except ValueError:
            if b"\n" in data and not event.is_error:  # `data:` lines without the blank line between them
                return any(self.add(type(event)(line)) for line in data.split(b"\n"))
            text = data.decode("utf-8", "replace")
            if event.is_error:
                raise ErrorFound(read_error(text)) from None
            raise NotAnAnswer("a chunk that is not JSON", text) from None
        self._check(type(event)(data, event.is_error), body)
        if not isinstance(body, dict):
            raise NotAnAnswer("a chunk of another shape", data.decode("utf-8", "replace"))
        self._add_lenient(lenient_chunk(body))
        return False

    def _add_lenient(self, chunk: Chunk) -> None:
        """Take a chunk whose text may begin or end with half a character: `\\ud83d`, `\\ude00` in two chunks."""
        delta = (chunk.choices[0].delta or chunk.choices[0].message) if chunk.choices else None
        half = ""
        if delta is not None and delta.content:
            text, self._half = self._half + delta.content, ""
            if "\ud800" <= text[-1] <= "\udbff":
                half, text = text[-1], text[:-1]
            delta.content = clean(text)
        self.add_chunk(chunk)
        self._half = half or self._half

    def _check_chunk(self, event: Event, chunk: Chunk) -> None:
        """Look at all of an event, of which `chunk` is the part that is wanted of most."""
        try:
            body = loads(event.data)
        except ValueError:
            text = event.data.decode("utf-8", "replace")
            if event.is_error or bytes(chunk.error) not in (b"", b"null"):
                raise ErrorFound(read_error(text)) from None
            if chunk.choices is msgspec.UNSET:
                raise NotAnAnswer("a chunk that cannot be read", text) from None
            return
        self._check(event, body)

    def _check(self, event: Event, body: object) -> None:
        """Take what only some events have: an error in them, the names of the answer and of its model."""
        self._look_closer = False
        if event.is_error:
            raise ErrorFound(read_error(body))
        if not isinstance(body, dict) or not body.get("choices") or body.get("error"):
            _raise_for(body, event.data.decode("utf-8", "replace"))
        self._take_names(body)

    def _take_names(self, body: object) -> None:
        if not isinstance(body, dict):
            return
        id_, model = body.get("id"), body.get("model")
        self.id = self.id or (clean(id_) if isinstance(id_, str) else None)
        self.model = self.model or (clean(model) if isinstance(model, str) else None)

    def _add_text(self, text: str) -> None:
        if self._half:
            self._half, text = "", "\ufffd" + text
        self.parts.append(text)
        self.ready.append(text)
        self._count(len(text))

    def _add_logprobs(self, logprobs: dict[str, Any]) -> None:
        for name in ("content", "refusal"):
            tokens = logprobs.get(name)
            if isinstance(tokens, list):
                self.logprobs = self.logprobs or []
                self.logprobs += [token for token in tokens if isinstance(token, dict)]
                self._size += _PER_PIECE * len(tokens)

    def _count(self, size: int) -> None:
        self.pieces += 1
        self._size += size + _PER_PIECE
        if self._size > _LIMIT:
            raise NotAnAnswer("an answer without end")

    def _take_usage(self, raw: msgspec.Raw) -> None:
        usage = usage_of(raw)
        if usage is not None and (self.usage is None or usage != Usage()):  # some end in one of zeros
            self.usage = usage

    def _take_groqs(self, raw: msgspec.Raw) -> None:
        """Take Groq's place for the usage, and for an error in mid-stream."""
        try:
            body = loads(bytes(raw))
        except ValueError:
            return
        if isinstance(body, dict):
            if body.get("error"):
                raise ErrorFound(read_error(body))
            if isinstance(body.get("usage"), dict):
                self._take_usage(msgspec.Raw(dumps(body["usage"]).encode()))

    def _finish(self, choice: Choice, *, alone: bool) -> None:
        word = (choice.finish_reason or "").strip()
        for reason in (word, (choice.native_finish_reason or "").strip()):
            if reason.lower() in _GIVEN_UP or "error" in reason.lower():
                raise CutShort(f"finish reason {reason[:40]!r}")
        if word.lower() in _NO_REASONS:
            return
        self.finish_reason = word
        self.settled = alone and not self.only_reasoning


def _raise_for(body: object, text: str) -> None:
    """Raise ErrorFound or NotAnAnswer if `body` is an error or a job's status."""
    error = find_error(body)
    if error is not None:
        raise ErrorFound(error)
    state = job_state(body)
    if state is not None:
        raise NotAnAnswer(f"the status of a job ({state})", text)
