"""The pieces of an answer as the server sends them, reduced to the fields that are wanted."""

from __future__ import annotations

import json
from typing import Any

import msgspec

NONE = msgspec.Raw(b"")


class Delta(msgspec.Struct, gc=False):
    """Hold what one chunk adds. vLLM calls reasoning `reasoning`, older servers `reasoning_content`."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: msgspec.Raw = NONE


class Choice(msgspec.Struct, gc=False):
    """Hold one choice; `message` takes the place of `delta` in a whole completion."""

    index: int = 0
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: str | None = None


class Chunk(msgspec.Struct, gc=False):
    """Hold one chunk; what is looked at once per answer, or never, stays undecoded."""

    choices: list[Choice] | msgspec.UnsetType | None = msgspec.UNSET
    usage: msgspec.Raw = NONE
    error: msgspec.Raw = NONE
    object: str | None = None


class Usage(msgspec.Struct, frozen=True):
    """Hold the tokens that the server counted."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


decode_chunk = msgspec.json.Decoder(Chunk).decode
"""Decode one chunk; raises msgspec.DecodeError (or a subclass) where the JSON or a field's type is another."""


def loads(data: bytes | str) -> Any:
    """Decode any JSON, forgiving bytes that are not UTF-8; raises ValueError."""
    return json.loads(data.decode("utf-8", "replace") if isinstance(data, bytes) else data)


def lenient_chunk(body: dict[str, Any]) -> Chunk:
    """Return the chunk in `body`, without those fields whose type is another."""
    choices = []
    for raw in body.get("choices") or ():
        if isinstance(raw, dict):
            finish = raw.get("finish_reason")
            index = raw.get("index")
            choices.append(
                Choice(
                    index=index if isinstance(index, int) else 0,
                    delta=_delta(raw.get("delta")),
                    message=_delta(raw.get("message")),
                    finish_reason=finish if isinstance(finish, str) else None,
                )
            )
    return Chunk(choices=choices, usage=msgspec.Raw(json.dumps(body.get("usage")).encode()))


def _delta(raw: object) -> Delta | None:
    if not isinstance(raw, dict):
        return None
    content = raw.get("content")
    if isinstance(content, list):  # content parts, as Mistral's servers send them
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(text for text in texts if isinstance(text, str))
    reasoning = raw.get("reasoning") or raw.get("reasoning_content")
    return Delta(
        content=content if isinstance(content, str) else None,
        reasoning=reasoning if isinstance(reasoning, str) else None,
        tool_calls=msgspec.Raw(json.dumps(raw["tool_calls"]).encode()) if raw.get("tool_calls") else NONE,
    )


def usage_of(raw: msgspec.Raw) -> Usage | None:
    """Return the usage in `raw`, or None where there is none."""
    data = bytes(raw)
    if not data or data == b"null":
        return None
    try:
        return msgspec.json.decode(data, type=Usage)
    except msgspec.DecodeError:
        return None


def add_tool_calls(calls: list[dict[str, Any]], raw: msgspec.Raw) -> bool:
    """Add the (pieces of) tool calls in `raw` to `calls`, in the API's shape; tell whether there were any."""
    data = bytes(raw)
    pieces = loads(data) if data else None
    if not isinstance(pieces, list) or not pieces:
        return False
    for position, piece in enumerate(pieces):
        if not isinstance(piece, dict):
            continue
        index = piece.get("index")
        index = index if isinstance(index, int) and 0 <= index <= len(calls) else min(position, len(calls))
        if index == len(calls):
            calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
        call = calls[index]
        call["id"] = piece.get("id") or call["id"]
        function = piece.get("function")
        if isinstance(function, dict):
            call["function"]["name"] = function.get("name") or call["function"]["name"]
            call["function"]["arguments"] += function.get("arguments") or ""
    return True
