"""The sentence of a server without tools, as vLLM runs the middleware: under a real server, around an application."""

import asyncio
import importlib.util
import json
import subprocess
import sys

import aiohttp
import pytest
import uvicorn

from tests.support.serving import ROOT

MIDDLEWARE = ROOT / "serving" / "vllm_side" / "middleware" / "tools_off.py"
# As vLLM 0.32 words it (vllm/renderers/online_renderer.py).
AUTO = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
REQUIRED = 'tool_choice="required" requires --tool-call-parser to be set'


async def application(scope, receive, send):
    """Answer with the status and the body that the request's body asks for, in pieces if it says so."""
    body = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message.get("more_body"):
            break
    asked = json.loads(body)
    answer = asked["answer"].encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": asked["status"], "headers": headers})
    for at in range(0, len(answer), asked.get("piece", 10**6)):
        await send(
            {"type": "http.response.body", "body": answer[at : at + asked.get("piece", 10**6)], "more_body": True}
        )
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def load():
    spec = importlib.util.spec_from_file_location("tools_off", MIDDLEWARE)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
async def ask():
    config = uvicorn.Config(load().ToolsOff(application), port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    async def ask(**asked):
        async with aiohttp.ClientSession() as session, session.post(url, json=asked) as response:
            return response.status, await response.text(), response.headers["content-type"]

    yield ask
    server.should_exit = True
    await task


@pytest.mark.parametrize("message", [AUTO, REQUIRED])
@pytest.mark.parametrize("piece", [10**6, 7])
async def test_vllms_flags_become_the_setting(ask, message, piece):
    error = {"message": message, "type": "BadRequestError", "param": None, "code": 400}
    for answer in ({"error": error}, {"type": "error", "error": {"type": "invalid_request_error", "message": message}}):
        status, text, kind = await ask(status=400, answer=json.dumps(answer), piece=piece)
        assert (status, kind) == (400, "application/json")
        said = json.loads(text)
        assert "SERVE_TOOLS=1" in said["error"]["message"]
        assert "--" not in said["error"]["message"]
        said["error"]["message"] = message
        assert said == answer


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (200, json.dumps({"error": {"message": AUTO}})),
        (400, json.dumps({"error": {"message": "max_tokens is too large"}})),
        (400, json.dumps({"error": AUTO})),
        (400, json.dumps([AUTO])),
        (400, "no JSON: " + AUTO),
        (400, ""),
        (500, AUTO),
    ],
)
async def test_every_other_answer_is_left_as_it_is(ask, status, answer):
    assert (await ask(status=status, answer=answer, piece=5))[:2] == (status, answer)


def test_it_needs_nothing_but_the_standard_library():
    subprocess.run([sys.executable, "-I", "-S", str(MIDDLEWARE)], check=True)
