"""Waiting for an endpoint: what is asked, what is said meanwhile, and when it is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from client import AuthenticationError, LLMClient, LLMTimeoutError, ModelNotFoundError
from tests.support.fake_openai import Exchange, FakeOpenAI, Respond, models, reply, stall

Make = Callable[..., LLMClient]


@pytest.fixture(autouse=True)
def _short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.readiness._POLL_S", 0.02)


@pytest.fixture
async def runpod() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI("/v2/abc123/openai/v1") as running:
        yield running


def in_turn(*responds: Respond) -> Respond:
    """Return what answers with each in turn, then with the last for good."""
    left = list(responds)

    async def respond(exchange: Exchange) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(exchange)

    return respond


def health(jobs: int = 0, **workers: int) -> Respond:
    return reply(200, {"jobs": {"inQueue": jobs, "inProgress": 0}, "workers": workers})


async def test_vllm_that_loads(server: FakeOpenAI, make: Make) -> None:
    server.routes["/health"] = in_turn(reply(503, ""), reply(503, ""), reply(200, ""))
    seen: list[str] = []
    await make().wait_until_ready(5, seen.append)
    assert len(seen) == 1
    assert "load its model" in seen[0]


async def test_a_server_that_says_when_to_ask_again(
    server: FakeOpenAI, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.routes["/health"] = in_turn(
        reply(503, "", retry_after="0.5"), reply(503, "", retry_after="3600"), reply(503, ""), reply(200, "")
    )
    waits: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        waits.append(seconds)
        await sleep(min(seconds, 0.005))

    monkeypatch.setattr("client.readiness.asyncio.sleep", note)
    await make().wait_until_ready(5)
    polls = [wait for wait in waits if wait >= 0.02]  # the others are the stand-in's
    assert polls == [0.5, 10, 0.02]  # never for longer than a person would like to wait for a server that is up


async def test_nobody_there_yet(make: Make) -> None:
    async with FakeOpenAI() as gone:
        url = gone.base_url
    seen: list[str] = []
    with pytest.raises(LLMTimeoutError) as caught:
        await make(base_url=url).wait_until_ready(0.2, seen.append)
    assert caught.value.phase == "total"
    assert "waiting for a connection" in str(caught.value)
    assert len(seen) == 1


async def test_a_server_that_hangs(server: FakeOpenAI, make: Make) -> None:
    server.routes["/health"] = stall
    with pytest.raises(LLMTimeoutError):
        await make().wait_until_ready(0.2)


async def test_plain_openai_has_no_health(server: FakeOpenAI, make: Make) -> None:
    del server.routes["/health"]
    await make().wait_until_ready(5)


async def test_a_login_page_is_no_list_of_models(server: FakeOpenAI, make: Make) -> None:
    server.routes["/health"] = server.routes["/v1/models"] = reply(200, "<html>", "text/html")
    said = asyncio.Event()

    def note(line: str) -> None:
        if "list of models" in line:
            said.set()

    task = asyncio.create_task(make().wait_until_ready(60, note))
    await asyncio.wait_for(said.wait(), 30)
    task.cancel()


async def test_wrong_key(server: FakeOpenAI, make: Make) -> None:
    server.routes["/v1/models"] = reply(401, {})
    with pytest.raises(AuthenticationError):
        await make().wait_until_ready(5)


async def test_wrong_model(server: FakeOpenAI, make: Make) -> None:
    server.routes["/v1/models"] = models("other")
    with pytest.raises(ModelNotFoundError, match="other"):
        await make().wait_until_ready(5)


async def test_runpod_queue(runpod: FakeOpenAI, make: Make) -> None:
    runpod.routes["/v2/abc123/health"] = in_turn(
        health(1, initializing=1), health(1, initializing=1, throttled=2), health(0, initializing=1), health(0, idle=1)
    )
    seen: list[str] = []
    await make(base_url=runpod.base_url).wait_until_ready(5, seen.append)
    assert seen == [
        "waiting for a worker (1 initializing; 1 job in queue)",
        "waiting for a worker (1 initializing, 2 throttled; 1 job in queue)",
        "waiting for a worker (1 initializing; 0 jobs in queue)",
    ]
    assert {exchange.path for exchange in runpod.all} == {"/v2/abc123/health"}


async def test_runpod_scaled_to_zero_is_woken_once(runpod: FakeOpenAI, make: Make) -> None:
    runpod.routes["/v2/abc123/health"] = in_turn(*[health()] * 8, health(ready=1))
    runpod.routes["/v2/abc123/openai/v1/models"] = stall
    await make(base_url=runpod.base_url).wait_until_ready(5)
    jobs = [exchange for exchange in runpod.all if "/openai/" in exchange.path]
    assert len(jobs) == 1
    await jobs[0].wait_gone(1)
    assert jobs[0].headers["authorization"].startswith("Bearer sk-")


async def test_the_wait_can_be_cancelled(runpod: FakeOpenAI, make: Make) -> None:
    runpod.routes["/v2/abc123/health"] = health()
    runpod.routes["/v2/abc123/openai/v1/models"] = stall
    task = asyncio.create_task(make(base_url=runpod.base_url).wait_until_ready(60))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
