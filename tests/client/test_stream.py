"""What a stream knows besides its text, the structured answers, and Gemma's turns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from client import LLMClient, UnexpectedResponseError
from tests.client.conftest import HELLO
from tests.support.fake_openai import FakeOpenAI, events, piece, say

Make = Callable[..., LLMClient]


async def test_attributes(server: FakeOpenAI, make: Make) -> None:
    server.script(say("a", "b", "c", delay=0.02))
    async with make().stream(HELLO, max_tokens=7, seed=1) as stream:
        assert [part async for part in stream] == ["a", "b", "c"]
    assert (stream.text, stream.finish_reason, stream.request_id) == ("abc", "stop", "req-1")
    assert stream.usage is not None
    assert (stream.usage.prompt_tokens, stream.usage.completion_tokens) == (3, 3)
    stats = stream.stats
    assert stats.time_to_first_token is not None
    assert 0 < stats.time_to_first_token < stats.duration < 5
    assert (stats.tokens, stats.estimated, stats.endpoint, stats.model) == (3, False, server.base_url, "fake")
    assert 1 < stats.tokens_per_second < 200
    assert (server.requests[0].json["seed"], server.requests[0].json["max_tokens"]) == (1, 7)
    assert [part async for part in stream] == []


async def test_without_usage_tokens_are_estimated(server: FakeOpenAI, make: Make) -> None:
    server.script(events(piece("a"), piece("b"), piece(finish="length")))
    stream = make().stream(HELLO)
    assert [part async for part in stream] == ["a", "b"]
    assert (stream.stats.tokens, stream.stats.estimated, stream.usage) == (2, True, None)
    assert (stream.request_id, stream.finish_reason) == ("chatcmpl-1", "length")


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
async def test_reasoning(server: FakeOpenAI, make: Make, name: str) -> None:
    server.script(events(piece(**{name: "let me "}), piece(**{name: "think"}), piece("Hi"), piece(finish="stop")))
    stream = make().stream(HELLO)
    assert [part async for part in stream] == ["Hi"]
    assert stream.reasoning == "let me think"


async def test_tool_calls(server: FakeOpenAI, make: Make) -> None:
    def call(index: int, **fields: Any) -> dict[str, Any]:
        return piece(tool_calls=[{"index": index, **fields}])

    server.script(
        events(
            call(0, id="call-1", type="function", function={"name": "weather", "arguments": ""}),
            call(0, function={"arguments": '{"city": '}),
            call(0, function={"arguments": '"Paris"}'}),
            call(1, id="call-2", type="function", function={"name": "time", "arguments": "{}"}),
            piece(finish="tool_calls"),
        )
    )
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
    stream = make().stream(HELLO, tools=[tool])
    assert [part async for part in stream] == []
    assert stream.finish_reason == "tool_calls"
    assert [(one["id"], one["function"]) for one in stream.tool_calls] == [
        ("call-1", {"name": "weather", "arguments": '{"city": "Paris"}'}),
        ("call-2", {"name": "time", "arguments": "{}"}),
    ]
    assert server.requests[0].json["tools"] == [tool]


class City(BaseModel):
    name: str
    people: int


async def test_structured_answer(server: FakeOpenAI, make: Make) -> None:
    server.script(say('{"name": "Par', 'is", "people": 2000000}'))
    assert await make().generate(HELLO, response_model=City) == City(name="Paris", people=2_000_000)
    asked = server.requests[0].json["response_format"]
    assert asked["type"] == "json_schema"
    assert asked["json_schema"]["name"] == "City"
    assert asked["json_schema"]["schema"]["required"] == ["name", "people"]


@pytest.mark.parametrize("around", ["```json\n%s\n```", "```\n%s```\n", "\n%s\n"])
async def test_a_fence_around_a_structured_answer(server: FakeOpenAI, make: Make, around: str) -> None:
    server.script(say(around % '{"name": "Paris", "people": 1}'))
    assert await make().generate(HELLO, response_model=City) == City(name="Paris", people=1)


async def test_an_answer_that_does_not_validate(server: FakeOpenAI, make: Make) -> None:
    server.script(say('{"name": "Paris"', finish="length"))
    with pytest.raises(UnexpectedResponseError, match="no City") as caught:
        await make().generate(HELLO, response_model=City)
    assert caught.value.partial == '{"name": "Paris"'
    assert "max_tokens" in str(caught.value)


async def test_complete(server: FakeOpenAI, make: Make) -> None:
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 5,
        "total_tokens": 14,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    token = {"token": "Hi", "logprob": -0.1, "bytes": [72, 105], "top_logprobs": []}
    chunk = piece("Hi", reasoning="hm")
    chunk["choices"][0]["logprobs"] = {"content": [token]}
    server.script(events(chunk, piece(finish="length"), {**piece(), "choices": [], "usage": usage}))
    done = await make().complete(HELLO, logprobs=True)
    assert (str(done), done.text, done.finish_reason, done.reasoning) == ("Hi", "Hi", "length", "hm")
    assert done.usage is not None
    assert (done.usage.prompt_tokens, done.usage.cached_tokens, done.usage.reasoning_tokens) == (9, 4, 2)
    assert (done.logprobs, done.refusal, done.tool_calls, done.request_id) == ([token], None, [], "chatcmpl-1")
    assert (done.stats.tokens, done.stats.estimated) == (5, False)


async def test_a_refusal_is_kept(server: FakeOpenAI, make: Make) -> None:
    server.default = events(piece(refusal="I can't "), piece(refusal="help."), piece(finish="stop"))
    done = await make().complete(HELLO)
    assert (done.refusal, done.text) == ("I can't help.", "I can't help.")
    assert await make().generate(HELLO) == "I can't help."


async def test_usage_inside_the_choice(server: FakeOpenAI, make: Make) -> None:
    last = piece(finish="stop")
    last["choices"][0]["usage"] = {"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10}
    server.script(events(piece("Hi"), last))
    done = await make().complete(HELLO)
    assert done.usage is not None
    assert (done.usage.completion_tokens, done.stats.tokens) == (7, 7)
