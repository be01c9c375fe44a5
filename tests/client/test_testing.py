"""The client for an application's own tests."""

from __future__ import annotations

import inspect

import pytest
from pydantic import BaseModel

from client import LLMClient, LLMTimeoutError, ServerError
from client.testing import FakeLLMClient
from tests.client.conftest import HELLO


async def test_answers_are_played_and_requests_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_MAX_TOKENS", "nonsense")  # nothing is read
    async with FakeLLMClient(["Hel", 0.01, "lo"], "whole", ["part", ServerError("down", status=503)]) as client:
        assert [part async for part in client.generate_streaming(HELLO)] == ["Hel", "lo"]
        assert await client.generate(HELLO, temperature=0, top_k=5) == "whole"
        for _ in range(2):
            with pytest.raises(ServerError) as caught:
                await client.generate(HELLO)
            assert (caught.value.partial, caught.value.status) == ("part", 503)
    assert len(client.requests) == 4
    assert client.requests[0]["messages"] == HELLO
    assert (client.requests[1]["temperature"], client.requests[1]["extra_body"]) == (0, {"top_k": 5})


async def test_streams_have_their_attributes() -> None:
    stream = FakeLLMClient(["a", "b"]).stream(HELLO)
    assert [part async for part in stream] == ["a", "b"]
    assert (stream.finish_reason, stream.text, stream.stats.tokens) == ("stop", "ab", 2)


async def test_deadlines_and_structure() -> None:
    class City(BaseModel):
        name: str

    assert await FakeLLMClient('{"name": "Paris"}').generate(HELLO, response_model=City) == City(name="Paris")
    with pytest.raises(LLMTimeoutError):
        await FakeLLMClient(["a", 5.0], total_timeout=0.05).generate(HELLO)
    client = FakeLLMClient()
    await client.wait_until_ready(1)
    assert await client.models() == ["fake"]
    assert await client.generate(HELLO) == "Hello"


def test_the_interface_is_the_clients() -> None:
    for name, member in inspect.getmembers(LLMClient, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.signature(getattr(FakeLLMClient, name)) == inspect.signature(member)


async def test_embeddings() -> None:
    fake = FakeLLMClient()
    one, other = await fake.embeddings(["a", "bcd"])
    assert one != other
    assert await fake.embeddings("a") == [one]
    assert await fake.embeddings([]) == []
