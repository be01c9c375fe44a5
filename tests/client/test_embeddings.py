"""Embeddings: vectors in the order of the texts, or an LLMError."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import client.sync
from client import (
    BadRequestError,
    ConfigurationError,
    LLMClient,
    LLMError,
    LLMTimeoutError,
    ModelNotFoundError,
    RateLimitedError,
    RequestEnd,
    ServerError,
    UnexpectedResponseError,
)
from tests.client.wire.test_any_input import ANY, ARGUMENT, Wireless
from tests.support.fake_openai import FakeOpenAI, models, reply, stall

Make = Callable[..., LLMClient]
PATH = "/v1/embeddings"


def vectors(*found: Any, **more: Any) -> Any:
    data = [{"object": "embedding", "index": number, "embedding": one} for number, one in enumerate(found)]
    return reply(200, {"object": "list", "data": data, "model": "e", **more}, x_request_id="req-1")


def packed(*numbers: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


async def test_texts_and_tokens(server: FakeOpenAI, make: Make) -> None:
    ends: list[RequestEnd] = []
    llm = make(on_request_end=ends.append)
    server.routes[PATH] = vectors([0.5, -1], [2, 3], usage={"prompt_tokens": 4, "total_tokens": 4})
    assert await llm.embeddings(iter(["a", "b"]), model="e", dimensions=2, truncate_prompt_tokens=9) == [
        [0.5, -1],
        [2, 3],
    ]
    assert server.all[-1].json == {
        "input": ["a", "b"],
        "model": "e",
        "encoding_format": "float",
        "dimensions": 2,
        "truncate_prompt_tokens": 9,
    }
    assert await llm.embeddings([(1, 2), (3,)]) == [[0.5, -1], [2, 3]]
    assert server.all[-1].json["input"] == [[1, 2], [3]]
    server.routes[PATH] = vectors([1.0])
    assert await llm.embeddings("half \ud83d") == [[1]]
    assert server.all[-1].json["input"] == "half \ufffd"
    assert await llm.embeddings([1, 2]) == [[1]]  # one text, in tokens
    assert server.all[-1].json["model"] == "fake"
    asked = len(server.all)
    assert await llm.embeddings([]) == []
    assert len(server.all) == asked
    assert [(end.operation, end.model, end.prompt_tokens, end.error) for end in ends[:2]] == [
        ("embeddings", "e", 4, None),
        ("embeddings", "fake", 4, None),
    ]
    assert (ends[0].request_id, ends[0].response_model) == ("req-1", "e")


async def test_the_order_is_that_of_the_texts(server: FakeOpenAI, make: Make) -> None:
    rows: list[Any] = [{"index": 1, "embedding": [1.0]}, {"index": 0, "embedding": [0.5]}]
    server.routes[PATH] = reply(200, {"data": rows})
    assert await make().embeddings(["a", "b"]) == [[0.5], [1.0]]
    for rows in (
        [{"index": 0, "embedding": [1]}, {"index": 0, "embedding": [2]}],
        [{"embedding": [1]}, {"embedding": [2]}],
    ):
        server.routes[PATH] = reply(200, {"data": rows})
        assert await make().embeddings(["a", "b"]) == [[1], [2]]


async def test_base64(server: FakeOpenAI, make: Make) -> None:
    server.routes[PATH] = vectors(packed(0.5, -2))
    assert await make().embeddings("a", encoding_format="base64") == [[0.5, -2]]
    assert server.all[-1].json["encoding_format"] == "base64"


@pytest.mark.parametrize(
    ("respond", "error"),
    [
        (reply(404, {"error": {"message": "The model `x` does not exist"}}), ModelNotFoundError),
        (reply(400, {"error": {"message": "this model does not support embeddings"}}), BadRequestError),
        (reply(429, {}, retry_after="7"), RateLimitedError),
        (reply(500, "<html>"), ServerError),
        (reply(200, {"error": {"message": "no slot", "code": 503}}), ServerError),
        (reply(200, {"object": "error", "message": "too long", "code": 400}), BadRequestError),
        (reply(200, {"data": [], "error": "out of memory"}), ServerError),
        (reply(200, {"id": "1", "status": "IN_QUEUE"}), UnexpectedResponseError),
        (reply(200, "<html><title>sign in</title>", "text/html"), UnexpectedResponseError),
        (reply(200, ""), UnexpectedResponseError),
        (vectors(), UnexpectedResponseError),
        (vectors([1.0], [2.0]), UnexpectedResponseError),
        (vectors([]), UnexpectedResponseError),
        (vectors(None), UnexpectedResponseError),
        (vectors([1.0, None]), UnexpectedResponseError),
        (vectors([float("nan")]), UnexpectedResponseError),
        (vectors(packed(float("inf"))), UnexpectedResponseError),
        (vectors("no base64"), UnexpectedResponseError),
        (vectors("AAA="), UnexpectedResponseError),
        (stall, LLMTimeoutError),
    ],
)
async def test_what_is_none(server: FakeOpenAI, make: Make, respond: Any, error: type[LLMError]) -> None:
    server.routes[PATH] = respond
    ends: list[RequestEnd] = []
    with pytest.raises(error):
        await make(on_request_end=ends.append, first_token_timeout=0.3).embeddings("secret")
    assert [end.error for end in ends] == [error.__name__]
    assert "secret" not in repr(ends)


async def test_a_missing_model_is_told_from_the_models_that_there_are(server: FakeOpenAI, make: Make) -> None:
    server.routes[PATH] = reply(404, {"error": {"message": "The model `fake` does not exist"}})
    server.routes["/v1/models"] = models("only")
    with pytest.raises(ModelNotFoundError, match="only"):
        await make().embeddings("a")


async def test_it_is_asked_again_where_that_may_help(server: FakeOpenAI, make: Make) -> None:
    left = [reply(503, "", retry_after="0"), reply(503, "", retry_after="0"), vectors([1.0])]

    async def in_turn(exchange: Any) -> None:
        await left.pop(0)(exchange)

    server.routes[PATH] = in_turn
    ends: list[RequestEnd] = []
    assert await make(max_retries=2, on_request_end=ends.append).embeddings("a") == [[1]]
    assert [end.retries for end in ends] == [2]
    server.routes[PATH] = reply(429, {}, retry_after="60")
    with pytest.raises(RateLimitedError):  # rather than waiting beyond the deadline
        await make(max_retries=2, first_token_timeout=5).embeddings("a")


async def test_slots_and_the_total_deadline(server: FakeOpenAI, make: Make) -> None:
    server.routes[PATH] = stall
    llm = make(max_concurrency=1, total_timeout=0.3)
    slots = llm._free_slots()
    assert slots is not None
    for held in (True, False):
        async with slots if held else contextlib.nullcontext():
            with pytest.raises(LLMTimeoutError) as caught:
                await llm.embeddings("a")
        assert caught.value.phase == "total"
        assert len(server.all) == (0 if held else 1)
        assert not slots.locked()


@pytest.mark.parametrize("texts", [b"bytes", {"a": 1}, 5, None, [None], [[float("nan")]], [object()]])
async def test_what_cannot_be_sent(server: FakeOpenAI, make: Make, texts: Any) -> None:
    with pytest.raises(ConfigurationError, match="cannot be sent"):
        await make().embeddings(texts)
    assert server.all == []


async def test_the_synchronous_client(server: FakeOpenAI) -> None:
    server.routes[PATH] = vectors([1.0])
    with client.sync.LLMClient(server.base_url, model="e") as llm:
        assert await asyncio.to_thread(llm.embeddings, "a") == [[1]]


class Asker(Wireless):
    def ask(self, body: bytes, texts: Any, model: Any = None, status: int = 200, **options: Any) -> None:
        self.respond = lambda _: httpx2.Response(status, headers={"content-type": "application/json"}, content=body)
        try:
            found = self.runner.run(self.client.embeddings(texts, model, **options))
        except LLMError as error:
            str(error).encode()
        else:
            assert all(type(number) is float for vector in found for number in vector)


@pytest.fixture(scope="module")
def asker() -> Iterator[Asker]:
    asker = Asker()
    yield asker
    asker.close()


ROW = st.fixed_dictionaries({}, optional={"embedding": ANY | st.lists(st.floats(), max_size=3), "index": ANY})


@settings(max_examples=80)
@given(
    ANY | st.fixed_dictionaries({"data": ANY | st.lists(ROW, max_size=2)}, optional={"usage": ANY, "error": ANY}),
    st.sampled_from([200, 200, 404, 500]),
)
def test_any_body(asker: Asker, body: Any, status: int) -> None:
    asker.ask(json.dumps(body).encode(), "a", status=status)


@settings(max_examples=80)
@given(
    ARGUMENT,
    ARGUMENT,
    st.dictionaries(
        st.sampled_from(["dimensions", "extra_body", "user", "top_k", "timeout", "extra_headers"]), ARGUMENT, max_size=2
    ),
)
def test_any_arguments(asker: Asker, texts: Any, model: Any, options: dict[str, Any]) -> None:
    asker.ask(b'{"data": [{"embedding": [1.0]}]}', texts, model, **options)
