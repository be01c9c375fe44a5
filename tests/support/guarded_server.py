"""An application behind the guard, as a program: it prints its port, and its requests run until they are released."""

from __future__ import annotations

import asyncio
import importlib
import socket
from typing import Any

import prometheus_client
import uvicorn

released = asyncio.Event()
waiting = 0


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """POST waits; GET /release lets go all that wait, /open those to come too; the rest says what is seen inside."""
    global waiting
    if scope["type"] != "http":
        return
    body = scope["state"]["key_name"].encode()
    if scope["path"] == "/metrics":
        body = prometheus_client.generate_latest()
    elif scope["path"] == "/asked":
        body = b", ".join(value for name, value in scope["headers"] if name in (b"authorization", b"x-api-key"))
    elif scope["path"] == "/waiting":
        body = str(waiting).encode()
    elif scope["path"] == "/open":
        released.set()
    elif scope["path"] == "/release":
        released.set()
        released.clear()
    elif scope["method"] == "POST" and scope["path"] != "/tokenize":
        waiting += 1
        await released.wait()
        waiting -= 1
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    """Serve on a port of loopback until killed."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
        print(listening.getsockname()[1], flush=True)
        guard = importlib.import_module("api_key_guard")  # on PYTHONPATH, as for vLLM
        config = uvicorn.Config(guard.ApiKeyGuard(application), log_level="error", lifespan="off")
        asyncio.run(uvicorn.Server(config).serve([listening]))


if __name__ == "__main__":
    main()
