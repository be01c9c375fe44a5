"""Write a line of JSON for each request, to the file in SERVE_ACCESS_LOG: who, what, how long, and nobody's text.

A line has `time` (UTC), `method`, `route`, `status`, `key` (the key's name, where the guard knows one), `tokens_in`
and `tokens_out` (as the server counts them; a stream that was not asked for its usage has `pieces` alone),
`first_token` and `seconds`, `id` (the completion's, else the caller's x-request-id), and `whole`: whether the answer
was sent to its end. What is not known is null. All of it is ASCII in JSON's own quoting, so that nothing that a caller
sends begins a line. Not written: /health, /ping and /metrics.

vLLM imports this file inside its own environment (`--middleware access_log.AccessLog`, with this folder on PYTHONPATH),
so it needs nothing but the standard library. The file is opened anew for each write, so that it may be moved away.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import threading
import time
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

QUIET = frozenset({"/health", "/ping", "/metrics"})
ROUTE_LIMIT = 200
ID_LIMIT = 128
HEAD_BYTES, TAIL_BYTES = 512, 4096
WAITING_LINES = 10_000
LAST_WAIT_S = 2.0
# Not after a backslash: there it would be part of a text that somebody has made to look so.
COMPLETION = re.compile(rb'(?<!\\)"id":\s*"([\w.:-]{1,128})"')
COUNTED = {
    "tokens_in": re.compile(rb'(?<!\\)"(?:prompt|input)_tokens":\s*(\d{1,12})\b'),
    "tokens_out": re.compile(rb'(?<!\\)"(?:completion|output)_tokens":\s*(\d{1,12})\b'),
}


class AccessLog:
    """ASGI middleware, outside of all others, that sees what passes and changes nothing.

    For each piece of a stream it counts one and keeps a reference; what is in it is looked at when the answer is over.
    """

    def __init__(self, app: App) -> None:
        self.app = app
        self._writer = Writer(os.environ["SERVE_ACCESS_LOG"])

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Hand over to the application, and write the line when it is done."""
        if scope["type"] != "http" or scope["path"].removeprefix(scope.get("root_path", "")) in QUIET:
            await self.app(scope, receive, send)
            return
        seen = Seen()

        async def watched(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.body":
                body = message.get("body")
                if body:
                    if seen.pieces == 0:
                        seen.first_at, seen.head = time.monotonic(), body
                    seen.pieces += 1
                    seen.before, seen.last = seen.last, body
                seen.whole = not message.get("more_body")
            elif message["type"] == "http.response.start":
                seen.status, seen.headers = message["status"], message.get("headers", ())

        async def listened() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect" and not seen.whole:
                seen.left = True  # what is sent from now on is sent to nobody
            return message

        try:
            await self.app(scope, listened, watched)
        finally:
            self._writer.write(seen.line(scope))


class Seen:
    """What has been seen of one answer."""

    def __init__(self) -> None:
        self.began, self.clock = time.monotonic(), time.time()
        self.status: int | None = None
        self.headers: Any = ()
        self.first_at: float | None = None
        self.pieces = 0
        self.head = self.before = self.last = b""
        self.whole = self.left = False

    def line(self, scope: MutableMapping[str, Any]) -> dict[str, Any]:
        """Return the line's content."""
        state = scope.get("state")
        name = state.get("key_name") if isinstance(state, dict) else None
        streams = (b"content-type", b"text/event-stream") in (
            (key.lower(), value.partition(b";")[0]) for key, value in self.headers
        )
        tail = self.before[-TAIL_BYTES:] + self.last[-TAIL_BYTES:]
        counted = {key: (pattern.findall(tail) or [None])[-1] for key, pattern in COUNTED.items()}
        return {
            "time": datetime.fromtimestamp(self.clock, UTC).isoformat(timespec="milliseconds"),
            "method": str(scope.get("method"))[:16],
            "route": scope["path"][:ROUTE_LIMIT],
            "status": self.status,
            "key": name if isinstance(name, str) else None,
            **{key: None if value is None else int(value) for key, value in counted.items()},
            "pieces": self.pieces if streams else None,
            "first_token": round(self.first_at - self.began, 4) if streams and self.first_at is not None else None,
            "seconds": round(time.monotonic() - self.began, 4),
            "id": self._id(scope),
            "whole": self.whole and not self.left,
        }

    def _id(self, scope: MutableMapping[str, Any]) -> str | None:
        found = COMPLETION.search(self.head[:HEAD_BYTES])
        if found is not None:
            return found[1].decode("ascii", "replace")
        given = [value for key, value in scope["headers"] if key == b"x-request-id"]
        return given[0][:ID_LIMIT].decode("latin-1") if given else None


class Writer:
    """Appends lines to a file from a thread of its own: whoever answers waits for no disk.

    A disk that is full or gone costs lines and nothing else; how many is said in a line before the next one.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._lines: deque[dict[str, Any]] = deque()
        self._due = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._busy = False
        self._torn = False  # the last line that was written has no end
        self._dropped = 0  # counted by who writes, the next two by the thread alone
        self._failed = 0
        self._told = 0

    def write(self, line: dict[str, Any]) -> None:
        """Queue a line to be written. Never raises, never waits."""
        if len(self._lines) >= WAITING_LINES:
            self._dropped += 1
            return
        self._lines.append(line)
        if self._thread is None:
            self._start()
        self._due.set()

    def flush(self) -> None:
        """Wait until all is written, at most two seconds."""
        until = time.monotonic() + LAST_WAIT_S
        while (self._lines or self._busy) and time.monotonic() < until:
            time.sleep(0.005)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
                self._thread.start()
                atexit.register(self.flush)

    def _run(self) -> None:
        while True:
            self._due.wait()
            self._due.clear()
            self._busy = True
            lines = []
            while self._lines:
                lines.append(self._lines.popleft())
            if lines:
                self._append(lines)
            self._busy = False

    def _append(self, lines: list[dict[str, Any]]) -> None:
        lost = self._dropped + self._failed - self._told
        told = [{"time": lines[0].get("time"), "lost": lost}] if lost else []
        texts = [json.dumps(line) + "\n" for line in [*told, *lines]]
        data = b"\n" * self._torn + "".join(texts).encode()
        written = 0
        try:
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                while written < len(data):
                    written += os.write(file, data[written:])
            finally:
                os.close(file)
        except OSError:
            whole, end = 0, int(self._torn)
            for text in texts:
                end += len(text)
                whole += written >= end - 1  # its end comes with what is written next
            if written:
                self._torn = not data[:written].endswith(b"\n")
            if told and whole:
                self._told += lost
            self._failed += len(lines) - max(0, whole - len(told))
        else:
            self._torn = False
            self._told += lost
