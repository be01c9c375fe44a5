"""Whatever a server sends and whatever a caller passes, what comes out is text or an LLMError."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client import ConfigurationError, LLMClient, LLMError, UnexpectedResponseError
from tests.client.conftest import HELLO
from tests.support.fake_openai import Exchange, FakeOpenAI, Respond, piece, reply

Make = Callable[..., LLMClient]
NAMES = st.sampled_from(
    [
        "choices",
        "delta",
        "message",
        "content",
        "reasoning",
        "refusal",
        "tool_calls",
        "function",
        "function_call",
        "name",
        "arguments",
        "id",
        "index",
        "usage",
        "prompt_tokens",
        "completion_tokens",
        "prompt_tokens_details",
        "cached_tokens",
        "error",
        "code",
        "type",
        "status",
        "param",
        "detail",
        "errors",
        "finish_reason",
        "logprobs",
        "object",
        "output",
        "base_resp",
        "status_code",
        "msg",
        "text",
        "thinking",
        "data",
        "success",
    ]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["stop", "error", "\ud83d", "{}", '{"error": "x"}', "[DONE]", "HTTP 500", 10**30, 404, "429"])
)
ANY = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)
CHOICE = st.fixed_dictionaries({}, optional={"index": ANY, "delta": ANY, "message": ANY, "finish_reason": ANY})
CHUNK = st.fixed_dictionaries({"choices": st.lists(CHOICE, max_size=2) | ANY}, optional={"usage": ANY, "error": ANY})


class Wireless:
    """One client over a transport without a network, for many questions; `respond` answers them."""

    respond: Callable[[httpx2.Request], httpx2.Response]

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.client = LLMClient(model="gemma", max_retries=0)
        transport = httpx2.MockTransport(lambda request: self.respond(request))
        http = httpx2.AsyncClient(transport=transport)
        self.client.client = openai.AsyncOpenAI(api_key="x", base_url="http://x/v1", http_client=http, max_retries=0)

    def close(self) -> None:
        self.runner.run(self.client.aclose())
        self.runner.close()


class Asker(Wireless):
    def ask(self, respond: Callable[[httpx2.Request], httpx2.Response], *args: Any, **kwargs: Any) -> None:
        """Ask; fail but for text and LLMError."""
        self.respond = respond
        try:
            done = self.runner.run(self.client.complete(*args, **kwargs))
        except LLMError as error:
            said = [error, error.partial, error.request_id]
        else:
            assert isinstance(done.text, str)
            said = [done.text, done.reasoning, done.refusal, done.finish_reason, done.request_id, done.tool_calls]
        assert "".join(map(str, said)).encode()


@pytest.fixture(scope="module")
def asker() -> Iterator[Asker]:
    asker = Asker()
    yield asker
    asker.close()


@settings(max_examples=80, deadline=None)
@given(ANY | CHUNK, st.sampled_from([200, 200, 400, 404, 429, 500]), st.booleans())
def test_any_body(asker: Asker, body: object, status: int, events: bool) -> None:
    type_ = "text/event-stream" if events else "application/json"
    content = json.dumps(body).encode()
    asker.ask(lambda _: httpx2.Response(status, headers={"content-type": type_}, content=content), HELLO)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(CHUNK | ANY, max_size=5),
    st.sampled_from([b"data: [DONE]\n\n", b""]),
    st.sampled_from([b"", b"event: error\n"]),
)
def test_any_chunks(asker: Asker, chunks: list[Any], end: bytes, name: bytes) -> None:
    sent = b"".join(name + b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + end
    headers = {"content-type": "text/event-stream"}
    asker.ask(lambda _: httpx2.Response(200, headers=headers, content=sent), HELLO)


def answers(_: httpx2.Request) -> httpx2.Response:
    content = b'{"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}'
    return httpx2.Response(200, headers={"content-type": "application/json"}, content=content)


def deep(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


class Odd:
    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError

    __hash__ = None  # type: ignore[assignment]


ODDS: list[Any] = [
    "\ud83d",
    float("nan"),
    float("inf"),
    b"bytes",
    {1, 2},
    10**5000,
    Odd(),
    object(),
    int,
    deep(5000),
    {(1, 2): 3},
    {"\ud800": 1},
    {b"x": 1},
    ...,
    1j,
]


def odd(number: int) -> Any:
    return ODDS[number]


ODD = st.integers(0, len(ODDS) - 1).map(odd)  # not the list itself: some in it cannot be shown
ARGUMENT = st.recursive(
    SCALARS | ODD, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=6
)
MESSAGES = st.lists(
    st.fixed_dictionaries({}, optional={"role": st.sampled_from(["user", "system", "assistant", "tool"]) | ARGUMENT, "content": ARGUMENT, "tool_calls": ARGUMENT}),
    max_size=3,
)  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(
    MESSAGES | ARGUMENT,
    ARGUMENT,
    ARGUMENT,
    st.dictionaries(st.sampled_from(["top_p", "stop", "tools", "top_k", "response_format", "extra_body", "extra_headers", "extra_query", "seed", "stream_options", "timeout", "model", "n"]), ARGUMENT, max_size=3),
    st.sampled_from(["gemma", "gpt-5"]),
)  # fmt: skip
def test_any_arguments(
    asker: Asker, messages: Any, max_tokens: Any, temperature: Any, options: dict[str, Any], model: str
) -> None:
    asker.ask(answers, messages, max_tokens, temperature, **{"model": model, **options})


@pytest.mark.parametrize("value", [float("nan"), b"bytes", {1}, object(), deep(100_000)])
async def test_what_json_cannot_hold_is_named(server: FakeOpenAI, make: Make, value: object) -> None:
    with pytest.raises(ConfigurationError, match="cannot be sent"):
        await make().generate([{"role": "user", "content": value}])  # type: ignore[dict-item]
    assert server.requests == []


@pytest.mark.parametrize(("text", "sent"), [("half \ud83d", "half \ufffd"), ("\ud83d\ude00", "\U0001f600")])
async def test_half_a_character_is_sent_as_one_that_is_missing(
    server: FakeOpenAI, make: Make, text: str, sent: str
) -> None:
    assert await make().generate([{"role": "user", "content": text}]) == "Hello"
    assert server.requests[0].json["messages"][0]["content"] == sent


class Pauses:
    """The longest that the event loop was held up."""

    async def __aenter__(self) -> Pauses:
        self.longest = 0.0
        self._task = asyncio.create_task(self._watch())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def _watch(self) -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0.001)
            self.longest = max(self.longest, time.thread_time() - before)


def packed(content: bytes, status: int = 200, type_: str = "application/json") -> Respond:
    return reply(status, gzip.compress(content, 9), type_, content_encoding="gzip")


@pytest.mark.parametrize("status", [200, 500])
async def test_a_bomb_is_not_unpacked(server: FakeOpenAI, make: Make, status: int) -> None:
    bomb = zlib.compressobj(9, wbits=31)
    packed_zeros = b"".join(bomb.compress(b"\0" * 2**20) for _ in range(64)) + bomb.flush()
    server.default = server.routes["/v1/models"] = reply(status, packed_zeros, content_encoding="gzip")
    async with Pauses() as pauses:
        for work in (make().generate(HELLO), make().models()):
            with pytest.raises(LLMError) as caught:
                await work
            assert len(str(caught.value)) < 800
    assert pauses.longest < 1  # of the thread's own time: other programs do not count


async def test_comments_without_end_in_a_packed_stream_leave_others_their_turn(server: FakeOpenAI, make: Make) -> None:
    last = b"data: " + json.dumps(piece("Hello", finish="stop")).encode() + b"\n\n"
    server.script(packed(b": x\n" * 200_000 + last, type_="text/event-stream"))
    async with Pauses() as pauses:
        assert await make().generate(HELLO) == "Hello"
    assert pauses.longest < 0.5


async def test_a_list_of_models_without_end(server: FakeOpenAI, make: Make) -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.head(type_="application/json")
        await exchange.chunk(b'{"data": [')
        while not exchange.gone.is_set():
            await exchange.chunk(b'{"id": "x"},' * 5000)

    server.routes["/v1/models"] = server.routes["/health"] = endless
    with pytest.raises(UnexpectedResponseError, match="list of models"):
        await make().models()
    with pytest.raises(LLMError):
        await make().wait_until_ready(3)


async def test_an_answer_without_end(server: FakeOpenAI, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client._wire.answer._LIMIT", 10_000)

    async def endless(exchange: Exchange) -> None:
        await exchange.head()
        while not exchange.gone.is_set():
            await exchange.event(piece("x" * 100))

    server.script(endless)
    with pytest.raises(UnexpectedResponseError, match="without end") as caught:
        await make().generate(HELLO)
    assert 9_000 < len(caught.value.partial) + 64 * len(caught.value.partial) / 100 < 12_000
