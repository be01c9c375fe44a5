"""A stand-in for the Hugging Face hub on loopback: it serves files by its addresses, and stumbles as it is told.

with FakeHub({"acme/model": {"config.json": b"{}"}}) as hub:
    hub.stumble("config.json", status=401)
    HubReader(hub.url).read("acme/model")
"""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

TOKEN = "hf_right"


def safetensors(tensors: dict[str, int]) -> bytes:
    """Return the head of a safetensors file with tensors of so many bytes, and none of their numbers."""
    head, at = {}, 0
    for name, size in tensors.items():
        head[name] = {"dtype": "BF16", "shape": [size // 2], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps({"__metadata__": {"format": "pt"}} | head).encode()
    return struct.pack("<Q", len(text)) + text


@dataclass
class Stumble:
    """How the answer for a file goes wrong. `cut`: it ends after so many bytes; `slow`: so many seconds a byte."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    cut: int | None = None
    slow: float = 0.0
    ranges: bool = True
    hang_up: bool = False


class FakeHub:
    """The stand-in: `models` are their files by name, `gated` those that want TOKEN, `asked` what was asked for."""

    def __init__(self, models: dict[str, dict[str, bytes]], gated: tuple[str, ...] = ()) -> None:
        self.models, self.gated = models, gated
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.sent = 0
        self._stumbles: dict[str, Stumble] = {}
        self._over = threading.Event()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub._answer(self, body=True)

            def do_HEAD(self) -> None:
                hub._answer(self, body=False)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    def stumble(self, file: str, **how: Any) -> None:
        """Let every answer for a file go wrong."""
        self._stumbles[file] = Stumble(**how)

    def _answer(self, handler: BaseHTTPRequestHandler, *, body: bool) -> None:
        handler.close_connection = True
        self.asked.append((handler.command, handler.path, dict(handler.headers)))
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/main/(.+)", handler.path)
        name, file = match.groups() if match else ("", "")
        how = self._stumbles.get(file, Stumble())
        if how.hang_up:
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        status, headers, raw = self._found(handler, name, file, how)
        if how.body is not None:
            raw = how.body
        length = len(raw) if how.cut is None or "Content-Length" in how.headers else max(len(raw), how.cut + 1)
        handler.send_response(status)
        for key, value in ({"Content-Length": str(length)} | headers | how.headers).items():
            handler.send_header(key, value)
        handler.end_headers()
        if body:
            self._send(handler, raw if how.cut is None else raw[: how.cut], how.slow)

    def _found(
        self, handler: BaseHTTPRequestHandler, name: str, file: str, how: Stumble
    ) -> tuple[int, dict[str, str], bytes]:
        if how.status != 200:
            return how.status, {}, b"no"
        if name in self.gated and handler.headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, {"X-Error-Code": "GatedRepo"}, b"Access to model is restricted."
        if name not in self.models:
            return 401, {"X-Error-Code": "RepoNotFound"}, b"Repository not found"  # which the hub answers
        raw = self.models[name].get(file)
        if raw is None:
            return 404, {"X-Error-Code": "EntryNotFound"}, b"Entry not found"
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", handler.headers.get("Range", ""))
        if wanted is None or not how.ranges:
            return 200, {}, raw
        begin, end = int(wanted[1]), min(int(wanted[2]) + 1, len(raw))
        if begin >= len(raw):
            return 416, {"Content-Range": f"bytes */{len(raw)}"}, b""
        return 206, {"Content-Range": f"bytes {begin}-{end - 1}/{len(raw)}"}, raw[begin:end]

    def _send(self, handler: BaseHTTPRequestHandler, raw: bytes, slow: float) -> None:
        try:
            if not slow:
                handler.wfile.write(raw)
                self.sent += len(raw)
                return
            for at in range(len(raw)):
                if self._over.wait(slow):
                    return
                handler.wfile.write(raw[at : at + 1])
        except OSError:
            return  # the reader has had enough
