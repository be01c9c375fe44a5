"""Servers that refuse a parameter which others want: it is translated or left out, once, and that is remembered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest

from client import BadRequestError, LLMClient
from tests.client.conftest import HELLO
from tests.support.fake_openai import Exchange, FakeOpenAI, Respond, reply, say

Make = Callable[..., LLMClient]

MAX_TOKENS = {
    "error": {
        "message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        "type": "invalid_request_error",
        "param": "max_tokens",
        "code": "unsupported_parameter",
    }
}
TEMPERATURE = {
    "error": {
        "message": "Unsupported value: 'temperature' does not support 0.7 with this model. Only the default (1) value is supported.",
        "type": "invalid_request_error",
        "param": "temperature",
        "code": "unsupported_value",
    }
}


def strict(**refused: Any) -> Respond:
    """Return what refuses the parameters named, one at a time, as OpenAI does."""

    async def respond(exchange: Exchange) -> None:
        sent = exchange.json
        for name, body in refused.items():
            if name in sent:
                await reply(400, body)(exchange)
                return
        await say("Hello")(exchange)

    return respond


async def test_openais_newer_models(server: FakeOpenAI, make: Make) -> None:
    server.default = strict(max_tokens=MAX_TOKENS, temperature=TEMPERATURE)
    client = make(model="gpt-5", max_retries=0, max_tokens=77)
    assert await client.generate(HELLO) == "Hello"
    assert len(server.requests) == 3
    last = server.requests[-1].json
    assert (last["max_completion_tokens"], "max_tokens" in last, "temperature" in last) == (77, False, False)
    assert await client.generate(HELLO, 5) == "Hello"
    assert len(server.requests) == 4  # it is known now
    assert server.requests[-1].json["max_completion_tokens"] == 5
    assert await client.generate(HELLO, model="gpt-6") == "Hello"
    assert len(server.requests) == 7  # another model


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("temperature", "invalid temperature: only 1 is allowed for this model"),
        ("temperature", "`temperature` and `top_p` cannot both be specified for this model. Please use only one."),
        ("temperature", "`temperature` is deprecated for this model."),
        ("temperature", {"error": {"message": "Unknown parameter", "param": "temperature"}}),
        ("max_tokens", "Unrecognized request argument supplied: max_tokens"),
        ("max_tokens", "this model is not supported MaxTokens, please use MaxCompletionTokens (max_tokens)"),
        ("stream_options", "[{'type': 'extra_forbidden', 'loc': ('body', 'stream_options'), 'msg': 'Extra inputs'}]"),
        ("stream_options", {"detail": [{"loc": ["body", "stream_options"], "msg": "extra fields not permitted"}]}),
    ],
)
@pytest.mark.parametrize("status", [400, 422])
async def test_other_words(server: FakeOpenAI, make: Make, name: str, said: object, status: int) -> None:
    body = said if isinstance(said, dict) else {"error": {"message": said, "type": "invalid_request_error"}}
    server.script(reply(status, body))
    client = make(model="m")
    assert await client.generate(HELLO, top_p=0.5) == "Hello"
    assert name not in server.requests[1].json
    assert await client.generate(HELLO) == "Hello"
    assert name not in server.requests[2].json


@pytest.mark.parametrize(
    "said",
    [
        "Developer instruction is not enabled for models/gemma-3-27b-it",  # Google's own API
        "System role not supported",  # Gemma 2's template
        {"error": {"message": "Unsupported value: 'messages[0].role' does not support 'system' with this model.", "param": "messages[0].role"}},
    ],
)  # fmt: skip
@pytest.mark.parametrize("model", ["gemma-3-27b-it", "o1-mini"])
async def test_a_model_that_knows_no_system(server: FakeOpenAI, make: Make, said: Any, model: str) -> None:
    server.script(reply(400, said if isinstance(said, dict) else {"error": {"code": 400, "message": said}}))
    client = make(model=model)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert await client.generate(messages) == "Hello"
    assert await client.generate(messages) == "Hello"
    assert [exchange.json["messages"] for exchange in server.requests[1:]] == [
        [{"role": "user", "content": "Be brief.\n\nHi"}]
    ] * 2
    server.script(reply(400, {"error": {"message": "System role not supported"}}))
    with pytest.raises(BadRequestError):
        await client.generate(HELLO)  # in which there is none


async def test_a_server_that_knows_only_the_older_name(server: FakeOpenAI, make: Make) -> None:
    server.script(reply(400, {"error": {"message": "Unknown parameter: max_completion_tokens"}}))
    assert await make(model="m").generate(HELLO, max_completion_tokens=9) == "Hello"
    assert server.requests[1].json["max_tokens"] == 9


@pytest.mark.parametrize(
    "said",
    [
        "max_tokens is too large: 32000. This model supports at most 16384 completion tokens.",
        "'max_tokens' or 'max_completion_tokens' is too large: 4096. This model's maximum context length is 2048 tokens.",
        "max_tokens must be at least 1, got 0.",
        "temperature must be non-negative, got -1.0.",
        "Invalid 'temperature': decimal above maximum value.",
        "messages: roles must alternate",
    ],
)
async def test_what_is_no_refusal_of_a_parameter_stays_an_error(server: FakeOpenAI, make: Make, said: str) -> None:
    server.default = reply(400, {"error": {"message": said, "type": "invalid_request_error"}})
    with pytest.raises(BadRequestError):
        await make(model="m").generate(HELLO)
    assert len(server.requests) == 1


async def test_a_server_that_refuses_whatever_is_sent_is_not_asked_for_ever(server: FakeOpenAI, make: Make) -> None:
    said = "Unsupported: stream_options, temperature, max_tokens, max_completion_tokens"
    server.default = reply(400, {"error": {"message": said}})
    with pytest.raises(BadRequestError):
        await make(model="m").generate(HELLO)
    assert len(server.requests) == 5


async def test_an_error_names_the_parameter(server: FakeOpenAI, make: Make) -> None:
    server.script(reply(400, {"error": {"message": "bad", "param": "messages[0].content"}}))
    with pytest.raises(BadRequestError) as caught:
        await make().generate(HELLO)
    assert caught.value.parameter == "messages[0].content"


@pytest.mark.parametrize("omitted", [openai.omit, openai.NOT_GIVEN, openai.not_given])
async def test_what_is_omitted_is_left_out(server: FakeOpenAI, make: Make, omitted: Any) -> None:
    client = make()
    await client.generate(HELLO, omitted, omitted, top_p=omitted, top_k=omitted, stream_options=omitted)
    sent = server.requests[0].json
    assert {"max_tokens", "temperature", "top_p", "top_k", "stream_options"} & set(sent) == set()
    await make(max_tokens=omitted, temperature=omitted).generate(HELLO)
    assert {"max_tokens", "temperature"} & set(server.requests[1].json) == set()
    await make(max_tokens=None).generate(HELLO, None, None)
    assert server.requests[2].json["max_tokens"] == 256


async def test_omit_in_the_environment(server: FakeOpenAI, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_MAX_TOKENS", "omit")
    monkeypatch.setenv("LLM_TEMPERATURE", "omit")
    client = make()
    assert (client.max_tokens, client.temperature) == (openai.omit, openai.omit)
    await client.generate(HELLO)
    assert {"max_tokens", "temperature"} & set(server.requests[0].json) == set()
