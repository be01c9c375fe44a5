"""The contract of LLMClient: constructor, attributes, the two methods, and that `create` may be a test's mock."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import os
import pickle
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

import client as package
from client import ConfigurationError, LLMClient, LLMTimeoutError, ModelNotFoundError, RateLimitedError
from tests.client.conftest import HELLO
from tests.support.fake_openai import FakeOpenAI, piece, reply, say

Make = Callable[..., LLMClient]
ROOT = Path(__file__).parents[2]


def test_defaults() -> None:
    client = LLMClient()
    assert (client.model, client.max_tokens, client.temperature) == ("google/gemma-3-27b-it", 256, 0.7)
    assert isinstance(client.client, openai.AsyncOpenAI)
    assert (str(client.client.base_url), client.client.api_key) == ("http://localhost:8000/v1/", "EMPTY")


def test_environment_and_env_file_are_read_when_the_client_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("LLM_MODEL=from-file\nLLM_MAX_TOKENS=0\nLLM_TEMPERATURE=\n")
    monkeypatch.setenv("LLM_BASE_URL", "http://example.org/v1/")
    client = LLMClient()
    assert (client.model, client.max_tokens, client.temperature) == ("from-file", 0, 0.7)
    assert client.base_url == "http://example.org/v1"
    monkeypatch.setenv("LLM_MODEL", "from-environment")
    assert LLMClient().model == "from-environment"
    assert LLMClient(model="given", temperature=0, max_tokens=0).temperature == 0
    assert LLMClient("http://example.com/v1", "key", "given").client.api_key == "key"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LLM_BASE_URL", "localhost:8000"),
        ("LLM_BASE_URL", "ftp://example.org"),
        ("LLM_BASE_URL", "http://"),
        ("LLM_BASE_URL", "http://example.org:port/v1"),
        ("LLM_MAX_TOKENS", "many"),
        ("LLM_MAX_TOKENS", "-1"),
        ("LLM_TEMPERATURE", "nan"),
        ("LLM_CONNECT_TIMEOUT", "0"),
        ("LLM_IDLE_TIMEOUT", "inf"),
        ("LLM_MAX_RETRIES", "-1"),
        ("LLM_FALLBACK_BASE_URL", "nowhere"),
    ],
)
def test_a_bad_setting_is_one_sentence(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        LLMClient()
    assert str(caught.value).startswith(f"{name}={value!r} is not allowed: it must be ")
    assert "\n" not in str(caught.value)


def test_a_bad_key_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_API_KEY", "se cret")
    with pytest.raises(ConfigurationError) as caught:
        LLMClient()
    assert "LLM_API_KEY" in str(caught.value)
    assert "cret" not in str(caught.value)


def test_a_password_in_the_address_is_not_shown() -> None:
    assert "secret" not in repr(LLMClient("http://user:secret@example.org/v1"))
    with pytest.raises(ConfigurationError) as caught:
        LLMClient("htp://user:secret@example.org/v1")
    assert "secret" not in str(caught.value)


async def test_a_pasted_address_and_a_key_that_is_none(server: FakeOpenAI, make: Make) -> None:
    client = make(base_url=f"{server.base_url}/chat/completions/", api_key="k")
    assert client.base_url == server.base_url
    server.script(reply(404, {"error": {"message": "The model does not exist: like"}}))
    with pytest.raises(ModelNotFoundError, match="set LLM_MODEL=fake"):
        await client.generate(HELLO, model="like")


async def test_what_is_sent(server: FakeOpenAI, make: Make) -> None:
    client = make(max_tokens=9, temperature=0.5)
    assert inspect.isasyncgen(client.generate_streaming(HELLO))
    assert [part async for part in client.generate_streaming(HELLO)] == ["Hel", "lo"]
    assert await client.generate(HELLO, 0, 0.0, top_p=0.5, top_k=7, extra_body={"min_p": 0.1}, stop=None) == "Hello"
    first, second = (exchange.json for exchange in server.requests)
    assert (first["max_tokens"], first["temperature"], first["stream"], first["model"]) == (9, 0.5, True, "fake")
    assert (second["max_tokens"], second["temperature"], second["stream"]) == (0, 0.0, True)
    assert (second["top_p"], second["top_k"], second["min_p"], "stop" in second) == (0.5, 7, 0.1, False)
    assert server.requests[0].headers["authorization"].startswith("Bearer sk-very")


async def test_images_pass(server: FakeOpenAI, make: Make) -> None:
    content = [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]
    await make(model="gemma").generate([{"role": "user", "content": content}])
    assert server.requests[0].json["messages"] == [{"role": "user", "content": content}]


def chunk(content: Any) -> SimpleNamespace:
    return SimpleNamespace(choices=[SimpleNamespace(delta=SimpleNamespace(content=content))])


async def agen(*contents: Any) -> AsyncIterator[Any]:
    for content in contents:
        yield chunk(content)


class Custom:
    """Iterate as a class of a test's own might."""

    def __init__(self) -> None:
        self.left = ["Hel", "", None, "lo"]

    def __aiter__(self) -> Custom:
        return self

    async def __anext__(self) -> Any:
        if not self.left:
            raise StopAsyncIteration
        return chunk(self.left.pop(0))


def magic_stream() -> MagicMock:
    mock = MagicMock()
    mock.__aiter__.return_value = [chunk("Hel"), SimpleNamespace(choices=[]), chunk("lo")]
    return mock


def magic_chunks() -> MagicMock:
    mock = MagicMock()
    parts = [MagicMock(), MagicMock()]
    parts[0].choices[0].delta.content, parts[1].choices[0].delta.content = "Hel", "lo"
    mock.__aiter__.return_value = parts
    return mock


def magic_message() -> MagicMock:
    mock = MagicMock()
    mock.choices = [MagicMock()]
    mock.choices[0].message.content = "Hello"
    return mock


def magic_item() -> MagicMock:
    mock = MagicMock()
    mock.choices[0].message.content = "Hello"
    return mock


def specced_stream() -> MagicMock:
    mock = MagicMock(spec=openai.AsyncStream)
    mock.__aiter__.return_value = [chunk("Hel"), chunk("lo")]
    return mock


def sdk_chunks() -> AsyncIterator[Any]:
    async def chunks() -> AsyncIterator[ChatCompletionChunk]:
        for body in (piece("Hel"), piece("lo"), piece(finish="stop")):
            yield ChatCompletionChunk.model_validate(body)

    return chunks()


def sdk_completion() -> ChatCompletion:
    message = {"role": "assistant", "content": "Hello"}
    return ChatCompletion.model_validate(
        {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        }
    )


def plain_message() -> SimpleNamespace:
    return SimpleNamespace(choices=[SimpleNamespace(message=SimpleNamespace(content="Hello"))])


STREAMS = [lambda: agen("Hel", "lo"), Custom, magic_stream, magic_chunks, specced_stream, sdk_chunks]
WHOLES = [magic_message, magic_item, sdk_completion, plain_message]


def install(client: LLMClient, make: Callable[[], Any], how: str) -> Any:
    async def create(**kwargs: Any) -> Any:
        assert kwargs["model"] == "m"
        return make()

    replaced: Any = create
    if how == "AsyncMock":
        replaced = AsyncMock(side_effect=lambda **_: make())
    elif how == "AsyncMock, return_value":
        replaced = AsyncMock(return_value=make())
    elif how == "MagicMock":
        replaced = MagicMock(return_value=make())
    client.client.chat.completions.create = replaced  # type: ignore[method-assign]
    return replaced


@pytest.mark.parametrize("how", ["AsyncMock", "AsyncMock, return_value", "MagicMock", "function"])
@pytest.mark.parametrize("answer", STREAMS)
async def test_mocked_streams(answer: Callable[[], Any], how: str) -> None:
    client = LLMClient(model="m")
    install(client, answer, how)
    assert "".join([part async for part in client.generate_streaming(HELLO)]) == "Hello"
    install(client, answer, how)
    assert await client.generate(HELLO) == "Hello"


@pytest.mark.parametrize("how", ["AsyncMock", "AsyncMock, return_value", "MagicMock", "function"])
@pytest.mark.parametrize("answer", WHOLES)
async def test_mocked_completions(answer: Callable[[], Any], how: str) -> None:
    client = LLMClient(model="m")
    replaced = install(client, answer, how)
    assert await client.generate(HELLO, temperature=0) == "Hello"
    if how != "function":
        assert replaced.call_args.kwargs["temperature"] == 0


async def test_a_whole_client_may_be_mocked() -> None:
    client = LLMClient(model="m")
    client.client = MagicMock()
    client.client.chat.completions.create = AsyncMock(return_value=plain_message())
    assert await client.generate(HELLO) == "Hello"


async def test_errors_of_a_mock() -> None:
    client = LLMClient(model="m", max_retries=0)
    response = httpx2.Response(429, request=httpx2.Request("POST", "http://x"), json={"error": {"message": "slow"}})
    error = openai.RateLimitError("slow", response=response, body={"message": "slow"})
    client.client.chat.completions.create = AsyncMock(side_effect=error)  # type: ignore[method-assign]
    with pytest.raises(RateLimitedError) as caught:
        await client.generate(HELLO)
    assert caught.value.__cause__ is error
    client.client.chat.completions.create = AsyncMock(side_effect=TimeoutError)  # type: ignore[method-assign]
    with pytest.raises(LLMTimeoutError):
        await client.generate(HELLO)
    client.client.chat.completions.create = AsyncMock(side_effect=ZeroDivisionError)  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        await client.generate(HELLO)


async def test_the_sdks_own_stream_over_a_mock_transport() -> None:
    body = b'data: {"choices":[{"delta":{"content":"Hello"}}]}\n\ndata: [DONE]\n\n'
    transport = httpx2.MockTransport(
        lambda _: httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)
    )
    client = LLMClient(model="m")
    client.client = openai.AsyncOpenAI(
        api_key="x", base_url="http://x/v1", http_client=httpx2.AsyncClient(transport=transport)
    )
    assert await client.generate(HELLO) == "Hello"


def test_import_loads_nothing_heavy() -> None:
    code = (
        "import sys, client, client.errors; from client import LLMClient, LLMError;"
        "print(sorted({'openai', 'aiohttp', 'pydantic_settings', 'pydantic', 'httpx2'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_public_names_are_sorted_and_there() -> None:
    assert package.__all__ == sorted(package.__all__)
    for name in package.__all__:
        assert getattr(package, name).__doc__


def test_one_client_serves_several_runs() -> None:
    """Each asyncio.run() has a loop, and so connections, of its own; nobody closes the client."""
    client: LLMClient | None = None

    async def ask() -> str:
        nonlocal client
        async with FakeOpenAI() as server:
            if client is None:
                client = LLMClient(base_url=server.base_url, model="m", max_retries=0)
            else:  # the same client, another server: only the address is swapped
                client.client.base_url = server.base_url
            return await client.generate(HELLO)

    assert asyncio.run(ask()) == "Hello"
    assert asyncio.run(ask()) == "Hello"


def test_a_client_in_two_living_loops_says_so() -> None:
    async def ask(client: LLMClient, server: FakeOpenAI) -> str:
        return await client.generate(HELLO)

    first = asyncio.new_event_loop()
    client = LLMClient("http://127.0.0.1:9/v1", max_retries=0)
    client.client.chat.completions.create = AsyncMock(side_effect=lambda **_: plain_message())  # type: ignore[method-assign]
    try:
        assert first.run_until_complete(client.generate(HELLO)) == "Hello"
        with pytest.raises(ConfigurationError, match="another event loop"):
            asyncio.run(client.generate(HELLO))
    finally:
        first.run_until_complete(first.shutdown_asyncgens())
        first.close()


@pytest.mark.parametrize(
    "end", ["keep.append(client)", "del client", "pass", "await asyncio.sleep(0.05)", "raise SystemExit"]
)
def test_an_unclosed_client_leaves_quietly(end: str) -> None:
    code = f"""
import asyncio
from client import LLMClient
from tests.support.fake_openai import FakeOpenAI
async def main():
    async with FakeOpenAI() as server:
        client = LLMClient(base_url=server.base_url, model="m")
        print(await client.generate([{{"role": "user", "content": "hi"}}]))
        {end}
keep = []
asyncio.run(main())
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True, env=env, check=False
    )
    assert (found.returncode, found.stdout) == (0, "Hello\n")
    noise = [line for line in found.stderr.splitlines() if "took" not in line]
    assert noise == []


async def test_a_dropped_client_closes_its_connections(server: FakeOpenAI) -> None:
    for _ in range(3):
        client = LLMClient(base_url=server.base_url, model="m")
        assert await client.generate(HELLO) == "Hello"
    del client
    async with asyncio.timeout(5):
        while server.connections:
            gc.collect()
            await asyncio.sleep(0.01)


async def test_a_closed_client_says_so(make: Make) -> None:
    client = make()
    await client.aclose()
    with pytest.raises(ConfigurationError, match="closed"):
        await client.generate(HELLO)


async def test_proxy_variables_are_honoured(server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.port}")
    async with LLMClient("http://nowhere.invalid/v1", model="m") as client:
        assert await client.generate(HELLO) == "Hello"
    assert server.requests[0].path == "http://nowhere.invalid/v1/chat/completions"


async def test_a_strict_server_gets_no_stream_options(server: FakeOpenAI, make: Make) -> None:
    from tests.support.fake_openai import reply

    server.script(reply(400, {"error": {"message": "Unknown field: stream_options"}}), say("Hello"))
    assert await make().generate(HELLO) == "Hello"
    assert "stream_options" not in server.requests[1].json


async def test_an_instrumentation_sees_the_messages(
    server: FakeOpenAI, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openai.resources.chat import AsyncCompletions

    original, seen = AsyncCompletions.create, []

    @functools.wraps(original)
    async def wrapper(self: Any, **kwargs: Any) -> Any:
        seen.append(kwargs["messages"])
        return await original(self, **kwargs)

    monkeypatch.setattr(AsyncCompletions, "create", wrapper)
    assert await make().generate(HELLO) == "Hello"
    assert seen == [HELLO]
    assert server.requests[0].json["messages"] == HELLO


async def test_messages_that_are_none(make: Make) -> None:
    with pytest.raises(ConfigurationError, match="messages must be"):
        await make().generate("hello")  # type: ignore[arg-type]


def test_errors_can_be_pickled() -> None:
    error = LLMTimeoutError("late", phase="idle", partial="Hel")
    error = pickle.loads(pickle.dumps(error))
    assert (str(error), error.phase, error.partial, error.retryable) == ("late", "idle", "Hel", True)
