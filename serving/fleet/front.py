"""The address in front of a fleet: it passes requests on to the router, and answers where the router cannot.

vllm-router 0.1.17 shows its management to whoever reaches it, says nothing of when to come again, is gone while it
starts, and sends what it does not know itself (`/v1/messages`, `/v1/responses`, `/tokenize`, ...) on without a header,
and so without the key (tried). Here its management is closed; without an engine that is ready callers get 503 with
Retry-After; and what the router does not know goes to an engine without it, to each in turn.

Bodies pass through in the pieces in which they come. An answer that breaks off breaks off here too, so that it is never
taken for whole.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from yarl import URL

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Mapping, Sequence

# The router's own routes (`build_app` in its src/server.rs) that are not vLLM's.
MANAGEMENT = re.compile(
    r"/(add_worker|remove_worker|list_workers|workers|flush_cache|get_loads?|get_server_info|get_model_info"
    r"|liveness|readiness|health_generate)(/.*)?"
)
# What the router knows, and so balances.
BALANCED = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models"})
HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding"}
    | {"upgrade", "expect", "host"}
)
CONNECT_S = 10.0
KEEP_ALIVE_S = 3.0  # less than vLLM's 5: a connection must not be used in the moment in which it is closed


class Front:
    """The server. `router` is the router's address, and `servers` returns those of what it has now.

    `waits` returns after how many seconds there may be one.
    """

    def __init__(self, router: str, servers: Callable[[], Sequence[str]], waits: Callable[[], float]) -> None:
        self._router, self._servers, self._waits = router, servers, waits
        self._turn = 0
        self._runner: web.AppRunner | None = None
        self._http: aiohttp.ClientSession | None = None
        self.closing = False

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        """Listen. Raises OSError."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),  # one caller's cookies are not another's
            timeout=timeout,
            auto_decompress=False,
            trust_env=False,
        )
        app = web.Application(client_max_size=0)
        app.router.add_route("*", "/{path:.*}", self._handle)
        # A caller that goes away must end the request upstream, too.
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=5)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port, ssl_context=tls, backlog=2048, reuse_address=True).start()

    async def close(self) -> None:
        """Close, whatever runs."""
        if self._runner is not None:
            await self._runner.cleanup()
        if self._http is not None:
            await self._http.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path, servers = request.path, self._servers()
        if not request.raw_path.startswith("/"):
            return _refusal(400, "The request's target must be a path.")
        if MANAGEMENT.fullmatch(path) or MANAGEMENT.fullmatch(request.raw_path.partition("?")[0]):
            return _refusal(404, "There is no such route.")
        if self.closing:
            return _refusal(503, "The server is stopping.", 5)
        if not servers:
            return _refusal(503, "No engine is ready yet.", self._waits())
        if path in ("/health", "/ping"):
            return web.Response()
        if path == "/metrics" and request.method == "GET":
            return await self._metrics(request, servers)
        if path in BALANCED:
            return await self._pass_on(request, [self._router])
        self._turn = (self._turn + 1) % len(servers)
        return await self._pass_on(request, [*servers[self._turn :], *servers[: self._turn]])

    async def _metrics(self, request: web.Request, servers: Sequence[str]) -> web.StreamResponse:
        """Answer with the metrics of all, each sample with its server as `replica`."""
        assert self._http is not None
        texts = {}
        for number, server in enumerate(servers, start=1):
            try:
                async with self._http.get(f"{server}/metrics", headers=_passed(request)) as answer:
                    text = await answer.text()
            except (aiohttp.ClientError, OSError, UnicodeDecodeError):
                continue  # it will be out of the list in a moment
            if answer.status != 200:
                return web.Response(status=answer.status, text=text, content_type="application/json")
            texts[str(number)] = text
        return web.Response(body=merged(texts), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _pass_on(self, request: web.Request, to: Sequence[str]) -> web.StreamResponse:
        """Send a request to the first of `to` that can be connected to, and its answer back."""
        answer = None
        for server in to:
            try:
                answer = await self._send(request, server)
                break
            except aiohttp.ClientConnectorError:
                continue  # nothing was sent yet
            except (aiohttp.ClientError, OSError):
                break
        if answer is None:
            return _refusal(503, "The engine or the router does not answer.", 1)
        async with answer:
            passed = [(n, v) for n, v in answer.headers.items() if n.lower() not in HOP_BY_HOP]
            if answer.status == 503 and "Retry-After" not in answer.headers:
                passed.append(("Retry-After", "1"))
            response = web.StreamResponse(status=answer.status, reason=answer.reason)
            response.headers.extend(passed)
            await response.prepare(request)
            try:
                async for piece in answer.content.iter_any():
                    await response.write(piece)
            except (aiohttp.ClientError, OSError):
                if request.transport is not None:
                    request.transport.abort()
                return response
            except asyncio.CancelledError:
                answer.close()
                raise
            await response.write_eof()
            return response

    async def _send(self, request: web.Request, server: str) -> aiohttp.ClientResponse:
        assert self._http is not None
        return await self._http.request(
            request.method,
            URL(server + request.raw_path, encoded=True),
            headers=_passed(request),
            data=request.content if request.body_exists else None,
            allow_redirects=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),  # unsent stays unsent
        )


def _passed(request: web.Request) -> list[tuple[str, str]]:
    """Return the headers that are passed on: those of the request, not of its connection."""
    named = {word.strip().lower() for word in request.headers.get("Connection", "").split(",")}
    dropped = HOP_BY_HOP | named | {"x-forwarded-for"}
    headers = [(name, value) for name, value in request.headers.items() if name.lower() not in dropped]
    return [*headers, ("X-Forwarded-For", request.remote or "")]


def merged(texts: Mapping[str, str]) -> bytes:
    """Return one text of Prometheus metrics for those of several servers, each sample with its server's name."""
    families: dict[str, Metric] = {}
    for replica, text in texts.items():
        for family in text_string_to_metric_families(text):
            into = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                into.add_sample(sample.name, {**sample.labels, "replica": replica}, sample.value)
    return generate_latest(_Collected(families.values()))


class _Collected(CollectorRegistry):
    """What `generate_latest` asks for families, with some that are there already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _refusal(status: int, sentence: str, retry_after: float | None = None) -> web.Response:
    error = {"message": sentence, "type": "ServiceUnavailable", "param": None, "code": status}
    headers = {} if retry_after is None else {"Retry-After": str(max(1, round(retry_after)))}
    return web.Response(
        status=status, text=json.dumps({"error": error}), content_type="application/json", headers=headers
    )
