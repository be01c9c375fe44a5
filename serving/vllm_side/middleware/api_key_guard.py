"""Ask for the API key on every route of vLLM, not only on some.

vLLM's own check covers `/v1`, `/v2`, `/inference` and `/cohere`; `/invocations` (full inference), `/metrics`,
`/tokenize` and others stay open. vLLM imports this file inside its own environment (`--middleware
api_key_guard.ApiKeyGuard`, with this folder on PYTHONPATH), so it needs nothing but the standard library.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

OPEN_PATHS = frozenset({"/health", "/ping"})
# With the page on: its own files hold nothing that a key guards, and what they show they ask for with the key.
PAGE_PATHS = frozenset(
    {"/", "/ui/page.css", "/ui/page.js", "/ui/chat.js", "/ui/watch.js", "/ui/metrics.js", "/ui/icon.svg"}
)
REFUSAL = (
    b'{"error": {"message": "Missing or wrong API key: send it as \'Authorization: Bearer KEY\'.", '
    b'"type": "Unauthorized", "param": null, "code": 401}}'
)


class ApiKeyGuard:
    """Let a request pass if it bears the key in VLLM_API_KEY, or asks for /health or /ping, or is a CORS preflight.

    A pure ASGI middleware, so that streams pass through untouched. Anything else gets 401; a websocket is closed
    before it is accepted.
    """

    def __init__(self, app: App) -> None:
        key = os.environ.get("VLLM_API_KEY")
        if not key:
            raise RuntimeError("ApiKeyGuard needs the key in VLLM_API_KEY")
        self.app = app
        self._digest = _digest(key.encode())
        self._open = OPEN_PATHS | PAGE_PATHS if os.environ.get("SERVE_PAGE") == "1" else OPEN_PATHS

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer 401, or hand over to the application."""
        if scope["type"] not in ("http", "websocket") or self._passes(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
            headers.append((b"content-length", str(len(REFUSAL)).encode()))
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": REFUSAL})
        else:
            await receive()  # the connect message
            await send({"type": "websocket.close", "code": 1008, "reason": "Missing or wrong API key"})

    def _passes(self, scope: MutableMapping[str, Any]) -> bool:
        headers = scope["headers"]
        if scope["type"] == "http":
            if scope["path"].removeprefix(scope.get("root_path", "")) in self._open:
                return True
            names = {name for name, _ in headers}
            if scope["method"] == "OPTIONS" and {b"origin", b"access-control-request-method"} <= names:
                return True
        given = [value for name, value in headers if name == b"authorization"]
        if len(given) != 1:
            return False
        scheme, _, key = given[0].partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(_digest(key.strip()), self._digest)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()  # equal lengths, so that the comparison takes the same time for every key
