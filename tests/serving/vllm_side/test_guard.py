"""The guard is tried as vLLM runs it: the class itself, as an ASGI application, under a real server."""

import asyncio
import contextlib
import importlib
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
import uvicorn

GUARD = Path(__file__).parents[3] / "serving" / "vllm_side" / "middleware" / "api_key_guard.py"
KEY = "a-key"


async def application(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "inside"})
        await send({"type": "websocket.close"})
    elif scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"inside"})


@pytest.fixture
def guard(monkeypatch):
    """The guard's module, as vLLM finds it: with its folder on the path."""
    monkeypatch.syspath_prepend(str(GUARD.parent))
    return importlib.import_module("api_key_guard")


@pytest.fixture
async def url(monkeypatch, guard):
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    guarded = guard.ApiKeyGuard(application)
    config = uvicorn.Config(guarded, port=0, log_level="error", lifespan="off", ws="websockets-sansio")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await task


@pytest.fixture
async def session():
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": KEY},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Basic {KEY}"},
        {"x-api-key": "wrong"},
        {"x-api-key": f"Bearer {KEY}"},
    ],
)
@pytest.mark.parametrize(
    "path", ["/v1/models", "/invocations", "/metrics", "/health/", "/healthy", "/", "/docs", "//ping"]
)
async def test_without_the_key_nothing_answers(session, url, path, headers):
    async with session.post(url + path, headers=headers) as response:
        assert response.status == 401
        assert (await response.json())["error"]["code"] == 401


@pytest.mark.parametrize("path", ["/health", "/ping"])
async def test_the_probes_answer_without_the_key(session, url, path):
    async with session.get(url + path) as response:
        assert (response.status, await response.text()) == (200, "inside")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_key_opens_every_route(session, url, scheme):
    async with session.post(url + "/invocations", headers={"Authorization": f"{scheme} {KEY}"}) as response:
        assert response.status == 200


async def test_the_key_may_come_as_anthropics_sdk_sends_it(session, url):
    async with session.post(url + "/v1/messages", headers={"x-api-key": KEY}) as response:
        assert response.status == 200
    async with session.post(url + "/v1/messages", headers=[("x-api-key", KEY), ("x-api-key", "other")]) as response:
        assert response.status == 401


async def test_a_cors_preflight_passes_and_another_options_does_not(session, url):
    preflight = {"Origin": "http://a.example", "Access-Control-Request-Method": "POST"}
    async with session.options(url + "/v1/models", headers=preflight) as response:
        assert response.status == 200
    async with session.options(url + "/v1/models") as response:
        assert response.status == 401


async def test_websockets_need_the_key_too(session, url):
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await session.ws_connect(url + "/v1/realtime")
    assert caught.value.status == 403
    async with session.ws_connect(url + "/v1/realtime", headers={"Authorization": f"Bearer {KEY}"}) as websocket:
        assert await websocket.receive_str() == "inside"
    with contextlib.suppress(aiohttp.ClientError):
        await websocket.close()


def test_without_a_key_in_the_environment_the_server_does_not_start(monkeypatch, guard):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    with pytest.raises(RuntimeError, match="VLLM_API_KEY"):
        guard.ApiKeyGuard(application)


def test_it_needs_nothing_but_the_standard_library():
    subprocess.run([sys.executable, "-I", "-S", str(GUARD)], check=True)
