"""What the client's tests share: a loopback server, a client for it, and an environment without settings."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from client import LLMClient
from tests.support.fake_openai import FakeOpenAI

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

HELLO = [{"role": "user", "content": "hello"}]
KEY = "sk-very-secret-key-0123456789"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.upper().startswith("LLM_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)  # where there is no .env


@pytest.fixture
async def server() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as running:
        yield running


@pytest.fixture
async def make(server: FakeOpenAI) -> AsyncIterator[Callable[..., LLMClient]]:
    """Return what makes clients for the server; they are closed at the end."""
    made: list[LLMClient] = []

    def make_one(**kwargs: Any) -> LLMClient:
        kwargs = {"base_url": server.base_url, "api_key": KEY, "model": "fake", "max_retries": 0, **kwargs}
        made.append(LLMClient(**kwargs))
        return made[-1]

    yield make_one
    for client in made:
        await client.aclose()


@pytest.fixture(params=["direct", "through the response"])
def both_paths(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Read once from aiohttp's own reader, once through the response's public interface."""
    if request.param != "direct":
        monkeypatch.setattr("client._wire.byte_source._aiohttp_response", lambda response: None)
    return str(request.param)
