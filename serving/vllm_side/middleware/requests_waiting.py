"""Count the requests that wait for the first byte of their answer, for whoever watches over vLLM.

vLLM's own gauge of running requests is set by its engine core, and so shows none of a core that hangs before it has
said a word of them. vLLM imports this file inside its own environment (`--middleware requests_waiting.RequestsWaiting`,
with this folder on PYTHONPATH); what is counted stands in `/metrics`.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class RequestsWaiting:
    """Count a POST from the last byte of its body to the first of its answer's.

    So one that is sent slowly does not count, nor one whose reader is slow. A pure ASGI middleware.
    """

    def __init__(self, app: App) -> None:
        self.app = app
        self._gauge = _gauge()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Hand over to the application, and count."""
        if self._gauge is None or scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        begun = waits = False

        async def listen() -> Message:
            nonlocal begun, waits
            message = await receive()
            if not begun and message["type"] == "http.request" and not message.get("more_body"):
                begun = waits = True
                self._gauge.inc()
            return message

        async def answer(message: Message) -> None:
            nonlocal waits
            last = message["type"] == "http.response.body" and not message.get("more_body")
            if waits and (message.get("body") or last):
                waits = False
                self._gauge.dec()
            await send(message)

        try:
            await self.app(scope, listen, answer)
        finally:
            if waits:
                self._gauge.dec()


@functools.cache
def _gauge() -> Any:
    try:
        from prometheus_client import Gauge
    except ImportError:
        return None
    about = "Requests that have been received whole, and have had no byte of an answer yet"
    return Gauge("serve_requests_waiting", about, multiprocess_mode="livesum")
