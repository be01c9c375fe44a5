"""Gemma's turns: no chat template loses or refuses any, and what the server has cached stays the prompt's beginning."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client import LLMClient
from client._wire.turns import merge_turns

if TYPE_CHECKING:
    from tests.support.fake_openai import FakeOpenAI

Make = Callable[..., LLMClient]
Messages = list[dict[str, Any]]
ROOT = Path(__file__).parents[3]
IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}


def turn(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def strictly(messages: Messages) -> str:
    """Render as Gemma 3's own template does: one system text in front, then user and assistant in turn."""
    prefix = ""
    if messages[0]["role"] == "system":
        assert isinstance(messages[0]["content"], str), "only the first part of a system message is read"
        prefix, messages = messages[0]["content"] + "\n\n", messages[1:]
    shown = ""
    for place, message in enumerate(messages):
        assert message["role"] == ("assistant" if place % 2 else "user"), "roles must alternate"
        content = message["content"]
        assert isinstance(content, (str, list)), "invalid content"
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        text = "".join(part["text"].strip() if part["type"] == "text" else "<image>" for part in parts)
        shown += f"<{message['role']}>{prefix}{text}<end>"
        prefix = ""
    assert not prefix, "a system text without a user's turn is lost"
    return shown


@functools.cache
def our_template() -> jinja2.Template:
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string((ROOT / "serving/vllm_side/templates/gemma3.jinja").read_text())


def by_our_template(messages: Messages) -> str:
    return our_template().render(messages=messages, bos_token="", add_generation_prompt=False)


@st.composite
def conversations(draw: st.DrawFn, images: bool = True) -> tuple[Messages, list[str]]:
    """Return messages, and the words in them in their order."""
    messages: Messages = []
    words: list[str] = []

    def word() -> str:
        words.append(f"w{len(words)}w")
        return words[-1]

    for _ in range(draw(st.integers(1, 8))):
        role = draw(st.sampled_from(["system", "developer", "user", "user", "assistant"]))
        shape = draw(st.sampled_from(["text", "text", "parts", "image", "none", "empty", "no parts"]))
        content: Any = {"none": None, "empty": "", "no parts": []}.get(shape, "")
        if shape == "text":
            content = word()
        elif shape in ("parts", "image"):
            content = [{"type": "text", "text": word()} for _ in range(draw(st.integers(1, 3)))]
            if shape == "image" and images:
                content.insert(draw(st.integers(0, len(content))), IMAGE)
        messages.append(turn(role, content))
    return messages, words


@settings(max_examples=150, deadline=None)
@given(conversations())
def test_nothing_is_lost_and_nothing_refused(conversation: tuple[Messages, list[str]]) -> None:
    messages, words = conversation
    before = json.dumps(messages)
    merged = merge_turns(messages)
    assert json.dumps(messages) == before
    for rendered in (strictly(merged), by_our_template(merged)):
        places = [rendered.find(word) for word in words]
        assert -1 not in places
        assert places == sorted(places)
        assert rendered.count("image>") == str(messages).count("image_url'},") + str(messages).count("'image_url': {")


@settings(max_examples=100, deadline=None)
@given(conversations(images=False), st.data())
def test_what_comes_later_does_not_change_what_was_there(
    conversation: tuple[Messages, list[str]], data: st.DataObject
) -> None:
    messages, _ = conversation
    some = messages[: data.draw(st.integers(1, len(messages)))]
    assert strictly(merge_turns(messages)).startswith(strictly(merge_turns(some)).removesuffix("<end>"))


@pytest.mark.parametrize(
    ("given", "merged"),
    [
        ([turn("user", "a"), turn("user", "b")], [turn("user", "a\n\nb")]),
        ([turn("system", "s")], [turn("user", "s")]),
        (
            [turn("system", "s"), turn("developer", [{"type": "text", "text": "t"}]), turn("user", "a")],
            [turn("system", "s\n\nt"), turn("user", "a")],
        ),
        (
            [turn("system", "s"), turn("user", "a"), turn("system", "t"), turn("user", "b")],
            [turn("system", "s"), turn("user", "a\n\nt\n\nb")],
        ),
        ([turn("user", "a"), turn("assistant", "b"), turn("system", "s")], [turn("user", "a"), turn("assistant", "b"), turn("user", "s")]),
        ([turn("assistant", "hello"), turn("user", "a")], [turn("user", ""), turn("assistant", "hello"), turn("user", "a")]),
        ([turn("system", "s"), turn("assistant", "hello")], [turn("user", "s"), turn("assistant", "hello")]),
        ([turn("user", "a"), turn("assistant", "b"), turn("user", "c")], None),
        ([turn("user", "a"), turn("user", [IMAGE])], [turn("user", [{"type": "text", "text": "a"}, IMAGE])]),
        ([turn("system", ["s", IMAGE]), turn("user", "a")], [turn("system", "s"), turn("user", [IMAGE, {"type": "text", "text": "a"}])]),
        ([turn("user", "a"), turn("assistant", None, tool_calls=[CALL]), turn("tool", "1"), turn("tool", "2")], None),
        ([], None),
    ],
)  # fmt: skip
def test_turns(given: Messages, merged: Messages | None) -> None:
    assert merge_turns(given) == (given if merged is None else merged)


@pytest.mark.parametrize(("model", "count"), [("google/gemma-3-27b-it", 1), ("gpt-5", 2)])
async def test_turns_are_merged_for_gemma_only(server: FakeOpenAI, make: Make, model: str, count: int) -> None:
    await make(model=model).generate([turn("user", "a"), turn("user", "b")])
    assert len(server.requests[0].json["messages"]) == count
