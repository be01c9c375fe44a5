"""Gemma's turns: its chat template wants roles that alternate and one system message at most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_SYSTEM = ("system", "developer")


def is_gemma(model: str) -> bool:
    """Tell whether `model` names a Gemma model."""
    return "gemma" in model.lower()


def merge_turns(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return `messages` with one system message in front and neighbours of the same role made one.

    Turns with tool calls and tool results stay as they are. The messages given are not changed.
    """
    turns = [dict(message) for message in messages]
    system = [message for message in turns if message.get("role") in _SYSTEM]
    merged = [_joined(system, "system")] if len(system) > 1 else system
    for message in turns:
        if message.get("role") in _SYSTEM:
            continue
        last = merged[-1] if merged else None
        if last is not None and last.get("role") == message.get("role") and _plain(last) and _plain(message):
            merged[-1] = _joined([last, message], message["role"])
        else:
            merged.append(message)
    return merged


def _plain(message: Mapping[str, Any]) -> bool:
    return message.get("role") in ("user", "assistant") and not message.get("tool_calls")


def _joined(messages: list[dict[str, Any]], role: str) -> dict[str, Any]:
    contents = [message.get("content") for message in messages if message.get("content")]
    content: Any
    if all(isinstance(content, str) for content in contents):
        content = "\n\n".join(contents)  # type: ignore[arg-type]
    else:
        content = []
        for part in contents:
            content += [{"type": "text", "text": part}] if isinstance(part, str) else list(part)  # type: ignore[arg-type]
    return {**messages[0], "role": role, "content": content}
