"""A loopback server that speaks just enough HTTP to be an OpenAI server, a broken one, or none at all.

    async with FakeOpenAI() as server:
        server.script(say("Hel", "lo"))        # the next request to /chat/completions; without a script: "Hello"
        client = LLMClient(base_url=server.base_url)

What answers is a coroutine that gets an Exchange and writes bytes to it, whatever bytes.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Self

Respond = Callable[["Exchange"], Awaitable[None]]


@dataclass
class Exchange:
    """One request, and the connection to answer it on."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    began: float = field(default_factory=time.monotonic)
    closed_at: float | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def json(self) -> dict[str, Any]:
        """Return the body that was sent, decoded."""
        decoded: dict[str, Any] = json.loads(self.body)
        return decoded

    async def raw(self, data: bytes) -> None:
        """Write bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, status: int = 200, type_: str = "text/event-stream", **headers: str) -> None:
        """Write a status line and headers; the body follows in chunks."""
        lines = [f"HTTP/1.1 {status} Status", f"content-type: {type_}", "transfer-encoding: chunked"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.raw("\r\n".join([*lines, "", ""]).encode())

    async def chunk(self, data: bytes) -> None:
        """Write one chunk of the body."""
        await self.raw(b"%x\r\n%s\r\n" % (len(data), data))

    async def event(self, body: object) -> None:
        """Write one event."""
        data = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
        await self.chunk(b"data: " + data + b"\n\n")

    async def end(self) -> None:
        """End the body properly."""
        await self.raw(b"0\r\n\r\n")

    def cut(self) -> None:
        """Drop the connection where it is."""
        transport = self.writer.transport
        transport.abort()

    async def wait_gone(self, timeout: float = 5.0) -> float:
        """Wait until the other side has closed; return the time.monotonic() of it."""
        async with asyncio.timeout(timeout):
            await self.gone.wait()
        assert self.closed_at is not None
        return self.closed_at


def piece(text: str | None = None, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    """Return a chunk as vLLM sends it."""
    if text is not None:
        delta["content"] = text
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "fake",
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
    }


def say(*pieces: str, delay: float = 0.0, finish: str | None = "stop", done: bool = True) -> Respond:
    """Return what streams `pieces`, with a pause of `delay` seconds before each."""

    async def respond(exchange: Exchange) -> None:
        await exchange.head(x_request_id="req-1")
        await exchange.event(piece("", role="assistant"))
        for text in pieces:
            await asyncio.sleep(delay)
            await exchange.event(piece(text))
        if finish is not None:
            await exchange.event(piece(finish=finish))
            usage = {"prompt_tokens": 3, "completion_tokens": len(pieces), "total_tokens": 3 + len(pieces)}
            await exchange.event({**piece(), "choices": [], "usage": usage})
        if done:
            await exchange.event(b"[DONE]")
        await exchange.end()

    return respond


def reply(status: int, body: object, type_: str = "application/json", **headers: str) -> Respond:
    """Return what answers with `body` (bytes, text or what becomes JSON) and a length."""
    data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()

    async def respond(exchange: Exchange) -> None:
        lines = [f"HTTP/1.1 {status} Status", f"content-type: {type_}", f"content-length: {len(data)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await exchange.raw("\r\n".join([*lines, "", ""]).encode() + data)

    return respond


def events(*bodies: object, done: bool = True) -> Respond:
    """Return what sends `bodies` as events."""

    async def respond(exchange: Exchange) -> None:
        await exchange.head()
        for body in bodies:
            await exchange.event(body)
        if done:
            await exchange.event(b"[DONE]")
        await exchange.end()

    return respond


def stream_bytes(
    data: bytes, *, type_: str = "text/event-stream", cuts: tuple[int, ...] = (), cut: bool = False
) -> Respond:
    """Return what sends `data`, cut into chunks at `cuts`; `cut` drops the connection instead of ending the body."""

    async def respond(exchange: Exchange) -> None:
        await exchange.head(type_=type_)
        for start, stop in zip((0, *cuts), (*cuts, len(data)), strict=True):
            if stop > start:
                await exchange.chunk(data[start:stop])
                await asyncio.sleep(0)
        if cut:
            await asyncio.sleep(0.02)
            exchange.cut()
        else:
            await exchange.end()

    return respond


async def stall(exchange: Exchange) -> None:
    """Answer nothing, until the other side goes."""
    await exchange.gone.wait()


def models(*names: str) -> Respond:
    """Return what lists `names`."""
    return reply(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in names]})


class FakeOpenAI:
    """Serve on a free loopback port. `requests` holds the exchanges with /chat/completions, `all` all of them."""

    def __init__(self, prefix: str = "/v1") -> None:
        self.prefix = prefix
        self.requests: list[Exchange] = []
        self.all: list[Exchange] = []
        self.routes: dict[str, Respond] = {"/health": reply(200, ""), f"{prefix}/models": models("fake")}
        self.default: Respond = say("Hel", "lo")
        self.connections = 0
        self._script: deque[Respond] = deque()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    def script(self, *responds: Respond) -> None:
        """Answer the coming requests to /chat/completions with these, in turn."""
        self._script.extend(responds)

    @property
    def base_url(self) -> str:
        """Return what LLM_BASE_URL takes."""
        return f"http://127.0.0.1:{self.port}{self.prefix}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await _some_rounds()  # what was accepted last begins, and is known
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()  # one whose reader is gone would wait to write
        await self._server.wait_closed()
        await _some_rounds()  # a transport closes in the loop's next round

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        self.connections += 1
        try:
            while await self._serve_one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            pass  # the end of the server; asyncio would log it
        finally:
            self.connections -= 1
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").strip().split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        exchange = Exchange(method, path, headers, body, reader, writer)
        self.all.append(exchange)
        respond = self.routes.get(path)
        if path.endswith("/chat/completions"):
            self.requests.append(exchange)
            respond = self._script.popleft() if self._script else self.default
        if respond is None:
            respond = reply(404, {"detail": "Not Found"})
        watch = asyncio.create_task(self._watch(exchange))
        try:
            await respond(exchange)
            return not writer.is_closing() and not exchange.gone.is_set()
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def _watch(self, exchange: Exchange) -> None:
        """Notice that the other side has closed."""
        while not exchange.reader.at_eof() and exchange.reader.exception() is None:
            await asyncio.sleep(0.005)
        exchange.closed_at = time.monotonic()
        exchange.gone.set()


async def _some_rounds() -> None:
    for _ in range(5):
        await asyncio.sleep(0)
