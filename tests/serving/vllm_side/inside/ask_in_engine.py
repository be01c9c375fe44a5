"""Run by the engine's own Python: the guard around vLLM's own check of the key, as vLLM puts them together.

Prints the status of each way to send a key, as JSON. Usage: ask_in_engine.py FOLDER_OF_THE_MIDDLEWARE
"""

import asyncio
import json
import sys
from typing import Any

sys.path.insert(0, sys.argv[1])

from api_key_guard import ApiKeyGuard
from vllm.entrypoints.serve.middleware.authenticate import AuthenticationMiddleware

WAYS = {
    "operator": (b"authorization", b"Bearer the-operators"),
    "operator, plain": (b"x-api-key", b"the-operators"),
    "named": (b"authorization", b"Bearer a"),
    "named, plain": (b"x-api-key", b"a"),
    "wrong": (b"authorization", b"Bearer b"),
    "wrong, plain": (b"x-api-key", b"b"),
}


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answer whatever gets through."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def main() -> None:
    """Ask in every way."""
    guarded = ApiKeyGuard(AuthenticationMiddleware(application, tokens=["the-operators"]))
    found = {}
    for way, header in WAYS.items():
        scope = {"type": "http", "method": "GET", "path": "/v1/models", "root_path": "", "query_string": b""}
        said: list[Any] = []

        async def send(message: Any, said: list[Any] = said) -> None:
            said.append(message.get("status"))

        await guarded({**scope, "headers": [header]}, None, send)
        found[way] = said[0]
    print(json.dumps(found))


asyncio.run(main())
