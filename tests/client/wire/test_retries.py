"""What is sent again, what is not, and when the other endpoint is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from client import (
    BadRequestError,
    LLMClient,
    LLMConnectionError,
    LLMError,
    LLMTimeoutError,
    RateLimitedError,
    ServerError,
    StreamInterruptedError,
)
from tests.client.conftest import HELLO
from tests.support.fake_openai import Exchange, FakeOpenAI, Respond, events, piece, reply, say, stall, stream_bytes

Make = Callable[..., LLMClient]


async def drop(exchange: Exchange) -> None:
    exchange.cut()


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client._wire.retry._FIRST_S", 0.01)


@pytest.fixture
async def second() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as running:
        running.default = say("second")
        yield running


@pytest.mark.parametrize("respond", [drop, *(reply(status, "") for status in (408, 409, 429, 500, 502, 503))])
async def test_sent_again_before_the_answer_began(server: FakeOpenAI, make: Make, respond: Respond) -> None:
    server.script(respond, respond)
    stream = make(max_retries=2).stream(HELLO)
    assert "".join([part async for part in stream]) == "Hello"
    assert (len(server.requests), stream.stats.retries) == (3, 2)


async def test_the_number_of_retries_is_bounded(server: FakeOpenAI, make: Make) -> None:
    server.default = reply(503, "")
    with pytest.raises(ServerError):
        await make(max_retries=2).generate(HELLO)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "respond",
    [
        reply(400, ""),
        reply(401, ""),
        reply(404, ""),
        reply(422, ""),
        reply(200, "<html>"),
        reply(200, {"error": {"message": "x", "code": 503}}),
        stream_bytes(b"", cut=True),
        events(piece("Hel"), done=False),
    ],
)
async def test_not_sent_again(server: FakeOpenAI, make: Make, respond: Respond) -> None:
    server.script(respond)
    with pytest.raises(LLMError):
        await make(max_retries=2).generate(HELLO)
    assert len(server.requests) == 1


async def test_a_server_that_took_the_request_and_is_silent_is_not_asked_again(server: FakeOpenAI, make: Make) -> None:
    client = make(max_retries=2, first_token_timeout=1.0)
    await client.generate(HELLO)  # connects
    server.script(stall)
    with pytest.raises(LLMError):
        await client.generate(HELLO)
    assert len(server.requests) == 2


async def test_retry_after_is_heeded(server: FakeOpenAI, make: Make) -> None:
    server.script(reply(429, "", retry_after="0.3"), reply(503, "", retry_after_ms="300"))
    began = asyncio.get_running_loop().time()
    assert await make(max_retries=2).generate(HELLO) == "Hello"
    assert asyncio.get_running_loop().time() - began >= 0.6


@pytest.mark.parametrize("seconds", ["30", "3600"])
async def test_a_wait_beyond_the_deadline_is_not_begun(server: FakeOpenAI, make: Make, seconds: str) -> None:
    server.script(reply(429, "", retry_after=seconds))
    async with asyncio.timeout(5):
        with pytest.raises(RateLimitedError) as caught:
            await make(max_retries=2, first_token_timeout=10).generate(HELLO)
    assert caught.value.retry_after == float(seconds)
    assert len(server.requests) == 1


@pytest.fixture
async def runpod() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI("/v2/abc123/openai/v1") as running:
        yield running


async def test_runpod_waits_longer_for_the_first_token() -> None:
    for url in (
        "https://api.runpod.ai/v2/x/openai/v1",
        "https://x.api.runpod.ai/v1",
        "http://127.0.0.1:9/v2/x/openai/v1",
    ):
        assert LLMClient(url)._endpoint.first_token_timeout == 600
        assert LLMClient(url, first_token_timeout=7)._endpoint.first_token_timeout == 7
    for url in ("https://api.openai.com/v1", "http://localhost:8000/v1", "https://notapi.runpod.ai.example.org/v1"):
        assert LLMClient(url)._endpoint.first_token_timeout == 60


@pytest.mark.parametrize("respond", [drop, reply(408, ""), reply(504, ""), reply(524, ""), stall])
async def test_no_second_billed_job(runpod: FakeOpenAI, make: Make, respond: Respond) -> None:
    runpod.script(respond)
    with pytest.raises(LLMError) as caught:
        await make(base_url=runpod.base_url, max_retries=2, first_token_timeout=0.3).generate(HELLO)
    assert len(runpod.requests) == 1
    assert not caught.value.retryable


@pytest.mark.parametrize("respond", [reply(429, ""), reply(500, ""), reply(502, "")])
async def test_runpod_is_asked_again_where_no_job_ran(runpod: FakeOpenAI, make: Make, respond: Respond) -> None:
    runpod.script(respond)
    assert await make(base_url=runpod.base_url, max_retries=2).generate(HELLO) == "Hello"
    assert len(runpod.requests) == 2


@pytest.mark.parametrize(
    "respond",
    [reply(429, ""), reply(500, ""), reply(200, {"error": "no workers"}), events({"error": {"code": 503}}), drop],
)
async def test_fallback(server: FakeOpenAI, second: FakeOpenAI, make: Make, respond: Respond) -> None:
    server.default = respond
    client = make(
        max_retries=1, fallback_base_url=second.base_url, fallback_api_key="other-key", fallback_model="other"
    )
    stream = client.stream(HELLO)
    assert [part async for part in stream] == ["second"]
    assert (stream.stats.endpoint, stream.stats.model) == (second.base_url, "other")
    assert second.requests[0].json["model"] == "other"
    assert second.requests[0].headers["authorization"] == "Bearer other-key"
    assert await client.generate(HELLO, model="mine") == "second"
    assert (server.requests[-1].json["model"], second.requests[-1].json["model"]) == ("mine", "other")


async def test_fallback_when_nobody_is_there(second: FakeOpenAI, make: Make) -> None:
    client = make(base_url="http://127.0.0.1:9/v1", fallback_base_url=second.base_url)
    assert await client.generate(HELLO) == "second"
    assert second.requests[0].json["model"] == "fake"
    assert second.requests[0].headers["authorization"] == "Bearer EMPTY"


@pytest.mark.parametrize(
    ("respond", "kind"),
    [
        (reply(400, ""), BadRequestError),
        (stall, LLMTimeoutError),
        (events(piece("Hel"), done=False), StreamInterruptedError),
        (events(piece("Hel"), {"error": {"code": 503}}), ServerError),
    ],
)
async def test_no_fallback(
    server: FakeOpenAI, second: FakeOpenAI, make: Make, respond: Respond, kind: type[LLMError]
) -> None:
    server.script(respond)
    with pytest.raises(kind):
        await make(fallback_base_url=second.base_url, first_token_timeout=0.3).generate(HELLO)
    assert second.requests == []


async def test_both_fail(server: FakeOpenAI, make: Make) -> None:
    server.script(reply(500, ""))
    with pytest.raises(LLMConnectionError):
        await make(fallback_base_url="http://127.0.0.1:9/v1").generate(HELLO)


async def test_a_connection_that_went_stale_is_not_used(server: FakeOpenAI, make: Make) -> None:
    """The server closes an idle connection: the next request must not fail for it."""
    client = make(max_retries=1)
    assert await client.generate(HELLO) == "Hello"
    server.requests[0].writer.close()
    await asyncio.sleep(0.05)
    assert await client.generate(HELLO) == "Hello"
