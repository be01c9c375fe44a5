"""Gemma's turns, such that no chat template for Gemma 3 loses or refuses any.

Google's template knows one system message, which must come first and be text, and goes into the first user's turn;
after it user and assistant must alternate, the user first. A system message further on becomes part of the user's turn
where it stands: moving it to the front would change the prompt's beginning, which the server has cached.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_SYSTEM = ("system", "developer")
_ANY_TURNS = re.compile(r"gemma-?4(?![\d.]*b)", re.IGNORECASE)  # Gemma 4, not "gemma-4b"


def alternates(model: str) -> bool:
    """Whether `model` names a Gemma whose template wants user and assistant in turn, as all before Gemma 4 do."""
    return "gemma" in model.lower() and not _ANY_TURNS.search(model)


def merge_turns(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return `messages` as turns that alternate, with at most one system message, in front.

    Turns with tool calls and tool results stay as they are. The messages given are not changed.
    """
    turns = [dict(message) for message in messages]
    first = next((place for place, turn in enumerate(turns) if turn.get("role") not in _SYSTEM), len(turns))
    text, others = _system(turns[:first])
    rest = [{**turn, "role": "user"} if turn.get("role") in _SYSTEM else turn for turn in turns[first:]]
    if others:
        rest.insert(0, {"role": "user", "content": others})
    # Without a user's turn to put it into, the system's text is one itself.
    if turns and (not rest or rest[0].get("role") == "assistant"):
        rest.insert(0, {"role": "user", "content": text})
        text = ""
    return _joined_turns([{**turns[0], "role": "system", "content": text}, *rest] if text else rest)


def without_system(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return `messages` with the system's as the user's, for models that know no system."""
    return _joined_turns({**turn, "role": "user"} if turn.get("role") in _SYSTEM else dict(turn) for turn in messages)


def has_system(messages: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether any of `messages` is the system's."""
    return any(turn.get("role") in _SYSTEM for turn in messages)


def _joined_turns(turns: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    merged: list[dict[str, Any]] = []
    for turn in turns:
        last = merged[-1] if merged else None
        if not _plain(turn):
            merged.append(turn)
        elif last is not None and last.get("role") == turn["role"] and _plain(last):
            merged[-1] = {**last, "content": _joined(_parts(last), _parts(turn))}
        elif isinstance(turn.get("content"), str):
            merged.append(turn)
        else:
            merged.append({**turn, "content": _parts(turn) or ""})
    return merged


def _plain(turn: Mapping[str, Any]) -> bool:
    return turn.get("role") in ("user", "assistant") and not turn.get("tool_calls")


def _system(turns: list[dict[str, Any]]) -> tuple[str, list[Any]]:
    """Return the text of the system messages in front, and what in them is no text."""
    parts = [part for turn in turns for part in _parts(turn)]
    return "\n\n".join(text for part in parts if (text := _text(part))), [part for part in parts if not _is_text(part)]


def _parts(turn: Mapping[str, Any]) -> list[Any]:
    """Return a turn's content as parts, none for no content."""
    content = turn.get("content")
    if not content:
        return []
    parts = list(content) if isinstance(content, (list, tuple)) else [content]
    return [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]


def _joined(first: list[Any], second: list[Any]) -> Any:
    """Return the content of two turns as one; texts that meet are joined, since templates put nothing between parts."""
    if first and second and _is_text(first[-1]) and _is_text(second[0]):
        text = "\n\n".join(text for part in (first[-1], second[0]) if (text := _text(part)))
        parts = [*first[:-1], {**first[-1], "text": text}, *second[1:]]
    else:
        parts = [*first, *second]
    return _text(parts[0]) if len(parts) == 1 and _is_text(parts[0]) else parts or ""


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("text"), str)


def _text(part: Any) -> str:
    return str(part["text"]) if _is_text(part) else ""
