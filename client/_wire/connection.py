"""The connections to one endpoint: the http client of the openai client, with aiohttp below.

What openai's client for aiohttp has no option for is set here and nowhere else: the size of a response's head, and
what is done with a head that gives both a length and chunks. tests/client/wire/test_connection.py holds it to that.
"""

from __future__ import annotations

import asyncio
import functools
import re
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import openai

from client.errors import ConfigurationError

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator

    Verify = bool | str | os.PathLike[str] | ssl.SSLContext

# uvicorn, and so vLLM, drops a connection that idles for 5 s: leave it first, or a request meets a closed door.
_KEEPALIVE_S = 4.0
_ERROR_BODY_LIMIT = 2**20  # bytes, unpacked
_ERROR_BODY_TIMEOUT = 5.0  # seconds
# What else this client reads whole. The chat's answers are counted by who reads them, and what the application asks the
# openai client for by itself is its own.
_LIMITS = {"/models": 4 * 2**20, "/health": 2**20, "/ping": 2**20, "/embeddings": 64 * 2**20}
_UNLIMITED = float("inf")
# Gateways send policies, cookies and traces in their headers: far more than aiohttp's 8,190 bytes and 128 lines.
_HEAD_FIELD_LIMIT = 2**18  # bytes
_HEAD_LINES = 2_000
_HEAD_LIMIT = 2**20  # bytes that are looked through

_CHUNKED = re.compile(rb"(?i)\r\ntransfer-encoding:[^\r\n]*\bchunked\b")
_LENGTH = re.compile(rb"(?i)\r\ncontent-length:[^\r\n]*")


def open_pool(timeout: httpx2.Timeout, verify: ssl.SSLContext) -> httpx2.AsyncClient:
    """Return an http client with connections of its own. Raises ConfigurationError for a proxy that is none."""
    try:
        pool = openai.DefaultAioHttpClient(
            limits=httpx2.Limits(max_connections=0, keepalive_expiry=_KEEPALIVE_S),  # 0: aiohttp's "no limit"
            timeout=timeout,
            event_hooks={"response": [_bound_body]},
            verify=verify,
        )
    except ValueError as error:
        raise ConfigurationError(f"HTTP_PROXY, HTTPS_PROXY or ALL_PROXY makes no sense: {error}.") from error
    for transport in (pool._transport, *pool._mounts.values()):
        if getattr(transport, "client", transport) is None:
            transport.client = functools.partial(_new_session, transport)  # type: ignore[union-attr]
    return pool


def bound_bodies(pool: httpx2.AsyncClient) -> None:
    """Give a client that the application brought along the limits of our own, for the openai client's requests."""
    hooks = pool.event_hooks
    if _bound_sdk_body not in hooks["response"]:
        pool.event_hooks = {**hooks, "response": [*hooks["response"], _bound_sdk_body]}


def trust(verify: Verify | None, ca_file: Path | None) -> ssl.SSLContext:
    """Return the certificates to trust: the system's, and those in `ca_file`. Raises ConfigurationError."""
    if isinstance(verify, ssl.SSLContext):
        return verify
    if verify is False:
        return _no_trust()
    name, file = ("LLM_CA_FILE", ca_file) if verify is None or verify is True else ("verify", Path(verify))
    if file is None:
        return _system_trust()
    try:
        context = httpx2.create_ssl_context()
        if file.is_dir():
            context.load_verify_locations(capath=file)
        else:
            context.load_verify_locations(file)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigurationError(f"{name}={str(file)!r} is not allowed: it must be a file of certificates.") from error
    return context


@functools.cache
def _system_trust() -> ssl.SSLContext:
    """Return the system's certificates; loading them takes 0.1 s, and they are the same for all."""
    return httpx2.create_ssl_context()


@functools.cache
def _no_trust() -> ssl.SSLContext:
    return httpx2.create_ssl_context(verify=False)


def _new_session(transport: Any) -> Any:
    """Return the session that openai's transport would make, with other limits."""
    import aiohttp  # loaded on first use

    connector = aiohttp.TCPConnector(
        limit=0, keepalive_timeout=_KEEPALIVE_S, ssl=transport.ssl_context, local_addr=transport.local_address
    )
    connector._factory = functools.partial(_tolerant_handler(), loop=asyncio.get_running_loop())
    return aiohttp.ClientSession(
        connector=connector,
        max_line_size=_HEAD_FIELD_LIMIT,
        max_field_size=_HEAD_FIELD_LIMIT,
        max_headers=_HEAD_LINES,
    )


@functools.cache
def _tolerant_handler() -> Any:
    from aiohttp.client_proto import ResponseHandler  # loaded on first use

    class TolerantHandler(ResponseHandler):
        """Reads a head that gives a length although the body comes in chunks: the chunks count (RFC 9112, 6.3)."""

        _held: bytes | None = None  # what has arrived of a head

        def set_response_params(self, **params: Any) -> None:
            self._held = b""
            super().set_response_params(**params)

        def data_received(self, data: bytes) -> None:
            if self._held is None:
                super().data_received(data)
                return
            data = self._held + data
            end = data.find(b"\r\n\r\n")
            if end < 0 and len(data) < _HEAD_LIMIT and b"HTTP/".startswith(data[:5]):
                self._held = data
                return
            self._held = None
            head = data[: end + 2]
            if end >= 0 and _CHUNKED.search(head) and _LENGTH.search(head):
                data = _LENGTH.sub(b"", head) + data[end + 2 :]
                self.force_close()
            elif head[8:11] == b" 10" and end >= 0:  # an interim head: the real one follows
                super().data_received(data[: end + 4])
                self._held = b""
                data = data[end + 4 :]
                if data:
                    self.data_received(data)
                return
            super().data_received(data)

        def connection_lost(self, exc: BaseException | None) -> None:
            held, self._held = self._held, None
            if held:
                super().data_received(held)
            super().connection_lost(exc)

    return TolerantHandler


async def _bound_body(response: httpx2.Response) -> None:
    """Keep the openai client from reading a body for ever: of all but a stream it reads what there is."""
    if response.status_code >= 400:
        _bound(response, _ERROR_BODY_LIMIT, _ERROR_BODY_TIMEOUT)
        return
    path = response.request.url.path
    limit = next((limit for end, limit in _LIMITS.items() if path.endswith(end)), None)
    if limit is not None:
        _bound(response, limit, _UNLIMITED)


async def _bound_sdk_body(response: httpx2.Response) -> None:
    if "x-stainless-lang" in response.request.headers:
        await _bound_body(response)


def _bound(response: httpx2.Response, limit: int, timeout: float) -> None:
    packed = response.headers.get("content-encoding")
    response.stream = _Bounded(response.stream, packed, limit, timeout)
    if packed:
        del response.headers["content-encoding"]


class _Bounded(httpx2.AsyncByteStream):
    """The first bytes of a body, unpacked: as many, and for as long, as it is worth."""

    def __init__(self, stream: Any, packed: str | None, limit: int, timeout: float) -> None:
        self._stream = stream
        self._packed = packed
        self._limit = limit
        self._timeout = timeout

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._limit
        loop = asyncio.get_running_loop()
        end = None if self._timeout == _UNLIMITED else loop.time() + self._timeout
        headers = {"content-encoding": self._packed} if self._packed else {}
        pieces = aiter(httpx2.Response(200, headers=headers, stream=self._stream).aiter_bytes())
        while left > 0:
            try:
                async with asyncio.timeout_at(end):
                    piece = (await anext(pieces))[:left]
            except StopAsyncIteration:
                return
            except (TimeoutError, httpx2.HTTPError, OSError):
                if end is None:
                    raise
                return  # the status says enough
            left -= len(piece)
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()
