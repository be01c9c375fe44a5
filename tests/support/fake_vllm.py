"""A stand-in for the `vllm` program: the same command line, the same routes, answers that a test scripts.

`install(folder)` writes an executable for SERVE_ENGINE. A request scripts its own answer with an object `fake` in its
body (`Script` lists what it may hold); without one the answer is a few tokens. `GET /fake` tells what arrived.
Environment: FAKE_VLLM_LOAD (seconds until it answers), FAKE_VLLM_FAIL (a line to die with instead of starting),
FAKE_VLLM_LOG (a file whose bytes it logs when it starts), FAKE_VLLM_CORE (1: tokens come from a process of their own, as
vLLM's do from its engine core, so that one can be stopped without the other).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import ssl
import stat
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass(frozen=True)
class Script:
    """How one request is answered."""

    tokens: list[str] = field(default_factory=lambda: ["The", " capital", " of", " France", " is", " Paris", "."])
    interval: float = 0.0  # seconds between two events
    delay: float = 0.0  # seconds before the first byte
    prefill: float = 0.0  # seconds of the core's CPU before the first token
    status: int = 200  # another status is answered with vLLM's error object
    message: str = "scripted error"
    error_type: str = "BadRequestError"
    cut_after: int | None = None  # close the connection after so many events
    stop_after: int | None = None  # end the body properly after so many events, without [DONE]
    crash_after: int | None = None  # end the whole program after so many events
    error_after: int | None = None  # send vLLM's mid-stream error event after so many events, then [DONE]
    piece_bytes: int | None = None  # write the body in pieces of so many bytes, whatever they cut
    stamp: bool = False  # add the monotonic clock to each event, as `sent`
    body: dict[str, Any] | None = None  # answer of a request that does not stream


@dataclass
class State:
    """What the tests look at."""

    model: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    running: int = 0
    finished: int = 0
    aborted: int = 0
    tokens: int = 0


class Core:
    """The process that computes: each token passes through it, so that one that is stopped gives none."""

    SOURCE = """
import sys, time
for line in sys.stdin:
    end = time.process_time() + float(line)
    while time.process_time() < end:
        pass
    print(flush=True)
"""

    async def run(self, _app: web.Application) -> AsyncIterator[None]:
        """Run it while the application does."""
        pipe = asyncio.subprocess.PIPE
        self._lock = asyncio.Lock()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", self.SOURCE, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL
        )
        yield
        self._process.kill()
        await self._process.wait()

    async def compute(self, seconds: float = 0.0) -> None:
        """Compute for so many seconds of CPU."""
        assert self._process.stdin
        assert self._process.stdout
        async with self._lock:
            self._process.stdin.write(f"{seconds}\n".encode())
            await self._process.stdout.readline()


def install(folder: Path) -> Path:
    """Write the stand-in as an executable `vllm` into `folder`; return its path."""
    program = folder / "vllm"
    repository = Path(__file__).parents[2]
    program.write_text(
        f"#!{sys.executable}\n"
        f"import sys\nsys.path.insert(0, {str(repository)!r})\n"
        "from tests.support.fake_vllm import main\nmain()\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


def main() -> None:
    """Serve until SIGTERM, as `vllm serve MODEL --host H --port P ...` would."""
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--served-model-name", default=None)
    parser.add_argument("--shutdown-timeout", type=float, default=0)
    parser.add_argument("--ssl-certfile")
    parser.add_argument("--ssl-keyfile")
    args, _ = parser.parse_known_args()
    if log := os.environ.get("FAKE_VLLM_LOG"):
        with Path(log).open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.flush()
    tls = None
    if args.ssl_certfile:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(args.ssl_certfile, args.ssl_keyfile)
    if reason := os.environ.get("FAKE_VLLM_FAIL"):
        print(reason, flush=True)
        sys.exit(1)
    print("INFO Starting to load model", flush=True)
    time.sleep(float(os.environ.get("FAKE_VLLM_LOAD", "0")))
    print("INFO Application startup complete.", flush=True)
    web.run_app(
        make_app(State(args.served_model_name or args.model)),
        host=args.host,
        port=args.port,
        print=None,
        access_log=None,
        shutdown_timeout=args.shutdown_timeout,
        ssl_context=tls,
        handler_cancellation=True,
    )


STATE: web.AppKey[State] = web.AppKey("state", State)
CORE: web.AppKey[Core] = web.AppKey("core", Core)


def make_app(state: State) -> web.Application:
    """Build the application around `state`."""
    app = web.Application(client_max_size=64 << 20, middlewares=[_guard])
    app[STATE] = state
    if os.environ.get("FAKE_VLLM_CORE"):
        app[CORE] = core = Core()
        app.cleanup_ctx.append(core.run)
    app.router.add_get("/health", _ok)
    app.router.add_get("/ping", _ok)
    app.router.add_get("/fake", _report)
    app.router.add_get("/version", _version)
    app.router.add_get("/metrics", _metrics)
    app.router.add_get("/v1/models", _models)
    for route in ("chat/completions", "completions", "responses", "messages", "embeddings"):
        app.router.add_post(f"/v1/{route}", _generate)
    app.router.add_post("/tokenize", _generate)
    app.router.add_post("/detokenize", _generate)
    return app


@web.middleware
async def _guard(request: web.Request, handler: Any) -> web.StreamResponse:
    key = os.environ.get("VLLM_API_KEY")
    free = request.path in ("/health", "/ping", "/fake", "/version", "/metrics")
    if key and not free and request.headers.get("Authorization") != f"Bearer {key}":
        return web.json_response({"error": "Unauthorized"}, status=401)
    response: web.StreamResponse = await handler(request)
    return response


async def _ok(_request: web.Request) -> web.Response:
    return web.Response()


async def _version(_request: web.Request) -> web.Response:
    return web.json_response({"version": "fake"})


async def _metrics(request: web.Request) -> web.Response:
    state = request.app[STATE]
    lines = [f'vllm:generation_tokens_total{{model_name="{state.model}"}} {float(state.tokens)}']
    lines.append(f'vllm:num_requests_running{{model_name="{state.model}"}} {float(state.running)}')
    return web.Response(text="\n".join([*lines, ""]))


async def _report(request: web.Request) -> web.Response:
    state = request.app[STATE]
    return web.json_response(state.__dict__)


async def _models(request: web.Request) -> web.Response:
    state = request.app[STATE]
    state.requests.append({"path": request.path, "method": "GET", "body": None})
    return web.json_response(
        {"object": "list", "data": [{"id": state.model, "object": "model", "max_model_len": 2048}]}
    )


async def _generate(request: web.Request) -> web.StreamResponse:
    state = request.app[STATE]
    try:
        body = await request.json()
    except ValueError:
        return _error(Script(status=400, message="The body is not JSON."))
    state.requests.append({"path": request.path, "method": request.method, "body": _short(body)})
    script = Script(**body.pop("fake", {}))
    state.running += 1
    try:
        await asyncio.sleep(script.delay)
        if CORE in request.app:
            await request.app[CORE].compute(script.prefill)
        if script.status != 200:
            return _error(script)
        if script.crash_after == 0:
            os._exit(1)
        if not (request.path.startswith(("/v1/chat", "/v1/completions")) and "model" in body):
            if "model" not in body:
                return _error(Script(status=400, message="Field required: model"))
            return web.json_response(
                script.body if script.body is not None else {"object": "fake", "echo": _short(body)}
            )
        if body["model"] != state.model:
            message = f"The model `{body['model']}` does not exist."
            return _error(Script(status=404, message=message, error_type="NotFoundError"))
        response = await (_stream(request, script, state) if body.get("stream") else _answer(request, script, state))
    except (asyncio.CancelledError, ConnectionResetError):
        state.aborted += 1
        raise
    finally:
        state.running -= 1
    state.finished += 1
    return response


async def _answer(request: web.Request, script: Script, state: State) -> web.Response:
    await asyncio.sleep(script.interval * len(script.tokens))
    text = "".join(script.tokens)
    chat = request.path.startswith("/v1/chat")
    choice: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    count = len(script.tokens)
    answer = {
        "id": "fake",
        "object": "chat.completion" if chat else "text_completion",
        "created": 0,
        "model": state.model,
        "choices": [{"index": 0, "finish_reason": "stop", **choice}],
        "usage": {"prompt_tokens": 1, "completion_tokens": count, "total_tokens": count + 1},
    }
    return web.json_response(script.body if script.body is not None else answer)


async def _stream(request: web.Request, script: Script, state: State) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    chat = request.path.startswith("/v1/chat")
    head = {"id": "fake", "object": "chat.completion.chunk" if chat else "text_completion", "created": 0}
    head["model"] = state.model

    def event(delta: dict[str, Any], finish: str | None = None) -> str:
        choice = {"index": 0, "finish_reason": finish} | (
            {"delta": delta} if chat else {"text": delta.get("content", "")}
        )
        stamp = {"sent": time.monotonic()} if script.stamp else {}
        return f"data: {json.dumps({**head, 'choices': [choice], **stamp}, ensure_ascii=False)}\n\n"

    async def write(text: str) -> None:
        data = text.encode()
        step = script.piece_bytes or len(data)
        for start in range(0, len(data), step):
            await response.write(data[start : start + step])
            if script.piece_bytes:
                await asyncio.sleep(0.002)  # let each piece travel alone

    if chat:
        await write(event({"role": "assistant", "content": ""}))
    due = time.monotonic()
    for count, token in enumerate(script.tokens):
        if count == script.crash_after:
            os._exit(1)
        if count == script.cut_after:
            assert request.transport is not None
            request.transport.abort()
            return response
        if count == script.stop_after:
            return response
        if count == script.error_after:
            error = {"error": {"message": script.message, "type": "InternalServerError", "param": None, "code": 500}}
            await write(f"data: {json.dumps(error)}\n\n")
            break
        if CORE in request.app:
            await request.app[CORE].compute()
        state.tokens += 1
        await write(event({"content": token}))
        due += script.interval
        if script.interval:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
    else:
        await write(event({}, "stop"))
    await write("data: [DONE]\n\n")
    with contextlib.suppress(ConnectionResetError):
        await response.write_eof()
    return response


def _error(script: Script) -> web.Response:
    error = {"message": script.message, "type": script.error_type, "param": None, "code": script.status}
    return web.json_response({"error": error}, status=script.status)


def _short(body: Any) -> Any:
    text = json.dumps(body)
    return body if len(text) < 2000 else {"bytes": len(text)}


if __name__ == "__main__":
    main()
