"""A page at the server's own address: try the model, and watch the server.

vLLM has no view of its own. This class answers `/` and `/ui/*` with the files beside it, inside vLLM's own process: one
port, one origin, no second server. It reads nothing that another caller could not read: the page asks
`/v1/chat/completions` and `/metrics` like everybody, with the key that is typed once. vLLM imports this file in its own
environment (`--middleware live_page.LivePage`, with this folder on PYTHONPATH), so it needs the standard library alone.

The guard, which wraps it, lets the files pass without a key, for they hold nothing; `/ui/about.json`, which names the
model and the plan, is behind the key like the rest.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

HERE = Path(__file__).parent
FILES = {
    "/": ("page.html", b"text/html; charset=utf-8"),
    "/ui/page.css": ("page.css", b"text/css; charset=utf-8"),
    "/ui/page.js": ("page.js", b"text/javascript; charset=utf-8"),
    "/ui/chat.js": ("chat.js", b"text/javascript; charset=utf-8"),
    "/ui/watch.js": ("watch.js", b"text/javascript; charset=utf-8"),
    "/ui/metrics.js": ("metrics.js", b"text/javascript; charset=utf-8"),
    "/ui/icon.svg": ("icon.svg", b"image/svg+xml"),
}
ABOUT = "/ui/about.json"
# Nothing is loaded from elsewhere, nothing runs that is not a file of ours, nobody frames the page.
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
)


class LivePage:
    """ASGI middleware that answers GET and HEAD for the page's files, and leaves all else to vLLM.

    `/ui/about.json` is the text in SERVE_PAGE_ABOUT: what the page should say of the model and of the plan.
    """

    def __init__(self, app: App) -> None:
        self.app = app
        self._about = os.environ.get("SERVE_PAGE_ABOUT", "{}").encode()
        self._files = {path: ((HERE / name).read_bytes(), kind) for path, (name, kind) in FILES.items()}

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer with a file, or hand over to the application."""
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        body, kind = (self._about, b"application/json") if path == ABOUT else self._files.get(path, (None, b""))
        if body is None:
            await self.app(scope, receive, send)
            return
        headers = [*HEADERS, (b"content-type", kind), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
