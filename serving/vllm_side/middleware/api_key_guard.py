"""Ask for an API key on every route of vLLM, not only on some.

vLLM's own check covers `/v1`, `/v2`, `/inference` and `/cohere`; `/invocations` (full inference), `/metrics`,
`/tokenize` and others stay open. vLLM imports this file inside its own environment (`--middleware
api_key_guard.ApiKeyGuard`, with this folder on PYTHONPATH), so it needs nothing but the standard library; where there
is prometheus_client, requests are counted by key for `/metrics`.
"""

from __future__ import annotations

import functools
import hmac
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.append(str(Path(__file__).parent))  # whoever loads it by its path knows nothing of its neighbours

from api_key_limits import Limits, Refusal
from api_keys import Key, KeyFile, digest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

OPEN_PATHS = frozenset({"/health", "/ping"})
# No model works for these. A fleet's router sends each question to the tokenizer of every engine first (tried).
NOT_COUNTED = frozenset({"GET", "HEAD", "OPTIONS"})
TOKENIZER = frozenset({"/tokenize", "/detokenize", "/v1/chat/completions/render", "/v1/completions/render"})
MISSING = "Missing or wrong API key: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'."
# The name of the one key that is no line of a file.
OPERATOR = "SERVE_API_KEY"


class ApiKeyGuard:
    """Let a request pass that bears a key, or asks for /health or /ping, or is a CORS preflight.

    Keys: the one in VLLM_API_KEY, and those of the file that SERVE_API_KEYS_FILE names, each with its limits, which are
    counted in the folder SERVE_API_KEYS_STATE (unset: beside the file). Anything else gets 401, and 429 with
    Retry-After beyond a limit; a websocket is closed before it is accepted. Further inside and outside,
    `scope["state"]["key_name"]` says whose key it was. A pure ASGI middleware, so that streams pass through untouched.
    """

    def __init__(self, app: App) -> None:
        key = os.environ.get("VLLM_API_KEY")
        file = os.environ.get("SERVE_API_KEYS_FILE")
        if not key and not file:
            raise RuntimeError("ApiKeyGuard needs a key in VLLM_API_KEY, or a file of keys in SERVE_API_KEYS_FILE")
        self.app = app
        self._operator = Key(OPERATOR, digest(key.encode())) if key else None
        self._header = (b"authorization", b"Bearer " + key.encode()) if key else None
        self._file = KeyFile(Path(file)) if file else None
        self._limits = Limits(Path(os.environ.get("SERVE_API_KEYS_STATE") or f"{file}.state")) if file else None
        self._open = OPEN_PATHS
        if os.environ.get("SERVE_PAGE") == "1":
            from live_page import FILES  # its folder is on the path, too, with the page on

            # They hold nothing that a key guards, and what they show they ask for with the key.
            self._open |= frozenset(FILES)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer 401 or 429, or hand over to the application."""
        if scope["type"] not in ("http", "websocket") or self._is_open(scope):
            await self.app(scope, receive, send)
            return
        key = self._key(scope)
        if key is None:
            _count("", "unknown_key")
            await _refuse(scope, receive, send, 401, "Unauthorized", MISSING, (b"www-authenticate", b"Bearer"))
            return
        scope.setdefault("state", {})["key_name"] = key.name
        scope = self._as_vllm_asks(scope)
        if scope.get("method") in NOT_COUNTED or _path(scope) in TOKENIZER:
            await self.app(scope, receive, send)
            return
        place = await self._limits.enter(key) if self._limits else None
        if isinstance(place, Refusal):
            _count(key.name, place.limit)
            wait = (b"retry-after", str(place.retry_after).encode())
            await _refuse(scope, receive, send, 429, "RateLimitError", place.sentence, wait)
            return
        _count(key.name, "served")
        try:
            await self.app(scope, receive, send)
        finally:
            if place is not None:
                place.leave()

    def _is_open(self, scope: MutableMapping[str, Any]) -> bool:
        if scope["type"] != "http":
            return False
        if _path(scope) in self._open:
            return True
        names = {name for name, _ in scope["headers"]}
        return scope["method"] == "OPTIONS" and {b"origin", b"access-control-request-method"} <= names

    def _as_vllm_asks(self, scope: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Return the request with the one key that vLLM's own check knows, which it takes as a Bearer alone."""
        if self._header is None:
            return scope
        others = [(name, value) for name, value in scope["headers"] if name not in (b"authorization", b"x-api-key")]
        return {**scope, "headers": [*others, self._header]}

    def _key(self, scope: MutableMapping[str, Any]) -> Key | None:
        """Return the key that the request bears. Every known key is compared, whichever fits."""
        bearer = [value for name, value in scope["headers"] if name == b"authorization"]
        plain = [value for name, value in scope["headers"] if name == b"x-api-key"]
        if len(bearer) > 1 or len(plain) > 1:
            return None
        given = list(plain)
        for value in bearer:
            scheme, _, rest = value.partition(b" ")
            if scheme.lower() == b"bearer":
                given.append(rest)
        found = None
        for word in given:
            hashed = digest(word.strip())
            named = self._file.find(hashed) if self._file else None
            if named is not None:
                found = named
            if self._operator is not None and hmac.compare_digest(self._operator.digest, hashed):
                found = self._operator
        return found


def _path(scope: MutableMapping[str, Any]) -> str:
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return path


async def _refuse(
    scope: MutableMapping[str, Any], receive: Receive, send: Send,
    status: int, kind: str, sentence: str, header: tuple[bytes, bytes],
) -> None:  # fmt: skip
    if scope["type"] == "websocket":
        await receive()  # the connect message
        await send({"type": "websocket.close", "code": 1008, "reason": sentence})
        return
    body = json.dumps({"error": {"message": sentence, "type": kind, "param": None, "code": status}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), header]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _count(key: str, outcome: str) -> None:
    counter = _counter()
    if counter is not None:
        counter.labels(key=key, outcome=outcome).inc()


@functools.cache
def _counter() -> Any:
    try:
        from prometheus_client import Counter
    except ImportError:
        return None
    about = "Requests by the name of their key, and what became of them: served, at_once, per_minute, unknown_key"
    return Counter("serve_requests_by_key", about, ["key", "outcome"])
