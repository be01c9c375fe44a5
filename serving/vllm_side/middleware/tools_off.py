"""Say, on a server without tools, how to turn them on.

vLLM answers a request with tools by naming flags of its own, which whoever set SERVE_* variables has never seen. vLLM
imports this file inside its own environment (`--middleware tools_off.ToolsOff`, with this folder on PYTHONPATH), so it
needs nothing but the standard library.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

SENTENCE = (
    "Tools are off on this server: start it with SERVE_TOOLS=1, or send the request without `tools` and `tool_choice`."
)
# What vLLM says instead.
NAMED_BY_VLLM = "--tool-call-parser"


class ToolsOff:
    """Replace the message of one kind of 400, in whichever of vLLM's APIs it comes, and touch nothing else.

    A pure ASGI middleware, so that streams pass through untouched.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Hand over to the application, and look at its answer if that is a 400."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal: Message | None = None
        body = b""

        async def look(message: Message) -> None:
            nonlocal refusal, body
            if message["type"] == "http.response.start" and message["status"] == 400:
                refusal = message
            elif refusal is None:
                await send(message)
            else:
                body += message.get("body", b"")
                if message.get("more_body"):
                    return
                body = _named(body)
                headers = [(name, value) for name, value in refusal["headers"] if name.lower() != b"content-length"]
                await send({**refusal, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
                await send({"type": "http.response.body", "body": body})

        await self.app(scope, receive, look)


def _named(body: bytes) -> bytes:
    try:
        answer = json.loads(body)
        if NAMED_BY_VLLM in answer["error"]["message"]:
            answer["error"]["message"] = SENTENCE
            return json.dumps(answer).encode()
    except (ValueError, TypeError, LookupError):
        pass
    return body
