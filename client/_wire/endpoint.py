"""One place to ask: its address, key and model, and the openai client and connection pool that go there."""

from __future__ import annotations

import asyncio
import functools
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import httpx2
import openai

from client._wire.dialect import Dialect
from client.errors import ConfigurationError
from client.settings import FIRST_TOKEN_TIMEOUT, NO_KEY, RUNPOD_FIRST_TOKEN_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from client.settings import ClientSettings

# uvicorn, and so vLLM, drops a connection that idles for 5 s: leave it first, or a request meets a closed door.
_KEEPALIVE_S = 4.0
_ERROR_BODY_LIMIT = 2**20  # bytes
_ERROR_BODY_TIMEOUT = 5.0  # seconds
_LISTING_TIMEOUT = 5.0  # seconds


# The open pools, each with the generator that closes it. asyncio.run() finishes the generators that its loop has begun:
# that closes the pool of a client nobody closed. Held here, since a client may be gone before its loop is.
_open_pools: dict[httpx2.AsyncClient, AsyncGenerator[None, None]] = {}


class Endpoint:
    """Hold one endpoint.

    `client` is its `openai.AsyncOpenAI`, which retries nothing by itself: what may be sent again is decided in
    `client._wire.retry`. The connection pool belongs to the event loop that uses it, and is closed when that loop ends.
    """

    def __init__(self, settings: ClientSettings, *, fallback: bool = False) -> None:
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self.fallback = fallback
        self.dialect = Dialect()
        self.base_url = (settings.fallback_base_url or "") if fallback else settings.base_url
        key = (settings.fallback_api_key if fallback else settings.api_key).get_secret_value()
        self.keys = tuple(
            value
            for secret in (settings.api_key, settings.fallback_api_key)
            if (value := secret.get_secret_value()) != NO_KEY
        ) + _password(self.base_url)
        self.connect_timeout = settings.connect_timeout
        self.first_token_timeout = settings.first_token_timeout or (
            RUNPOD_FIRST_TOKEN_TIMEOUT if self.is_runpod else FIRST_TOKEN_TIMEOUT
        )
        self._http = self._new_pool()
        self.client = self._openai = openai.AsyncOpenAI(
            base_url=self.base_url,
            api_key=key,
            max_retries=0,
            timeout=self._http.timeout,
            http_client=self._http,
        )

    @property
    def is_runpod(self) -> bool:
        """Tell whether requests become RunPod jobs: by the host, or by a path such as /v2/ID/openai/v1."""
        parts = urlsplit(self.base_url)
        host = parts.hostname or ""
        path = parts.path.split("/")
        return host == "api.runpod.ai" or host.endswith(".api.runpod.ai") or (path[1:2] == ["v2"] and "openai" in path)

    @property
    def name(self) -> str:
        """Return the address, fit for a message."""
        parts = urlsplit(self.base_url)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))

    def variable(self, name: str) -> str:
        """Return the environment variable that sets `name` (such as "API_KEY") for this endpoint."""
        return f"LLM_FALLBACK_{name}" if self.fallback else f"LLM_{name}"

    async def enter_loop(self) -> None:
        """Tie the connection pool to the running event loop.

        Raises ConfigurationError if the client is closed, or in use in another loop that still lives.
        """
        loop = asyncio.get_running_loop()
        if self._closed:
            raise ConfigurationError("This LLMClient is closed: make a new one, or close it later.")
        if loop is self._loop:
            return
        if self._loop is not None:
            if not self._loop.is_closed():
                raise ConfigurationError("This LLMClient is in use in another event loop: make one for each loop.")
            self._http = self._openai._client = self._new_pool()
        self._loop = loop
        keeper = _open_pools[self._http] = _keep(self._http)
        await anext(keeper)

    async def aclose(self) -> None:
        """Close the connections; nothing can be sent afterwards."""
        self._closed = True
        await _close(self._http)

    def __del__(self) -> None:
        """Close the connections of a client that was dropped while its loop goes on."""
        loop = self._loop
        if not self._closed and loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(_close_later, loop, self._http)

    async def get(self, url: str, timeout: float | None) -> httpx2.Response:
        """GET `url` with the key. Raises TimeoutError after `timeout` seconds (None: never), or httpx2's errors."""
        async with asyncio.timeout(timeout):
            return await self._http.get(url, headers=self._openai.auth_headers, timeout=self._http.timeout)

    async def list_models(self, timeout: float = _LISTING_TIMEOUT) -> list[str]:
        """Return the names of the server's models; raises what the openai client raises, or TimeoutError."""
        await self.enter_loop()
        asked = self.client if issubclass(type(self.client), openai.AsyncOpenAI) else self._openai  # not a mock
        async with asyncio.timeout(timeout):
            page = await asked.models.list()
        return [model.id for model in page.data if isinstance(model.id, str)]

    def _new_pool(self) -> httpx2.AsyncClient:
        try:
            return openai.DefaultAioHttpClient(
                limits=httpx2.Limits(max_connections=0, keepalive_expiry=_KEEPALIVE_S),  # 0: aiohttp's "no limit"
                # Reads have deadlines of our own, which comments cannot postpone; "pool" covers DNS and TLS.
                timeout=httpx2.Timeout(None, connect=self.connect_timeout, pool=self.connect_timeout),
                event_hooks={"response": [_bound_error_body]},
                verify=_trust(),
            )
        except ValueError as error:
            raise ConfigurationError(f"HTTP_PROXY, HTTPS_PROXY or ALL_PROXY makes no sense: {error}.") from error


@functools.cache
def _trust() -> ssl.SSLContext:
    """Return the certificates to trust; loading them takes 0.1 s, and they are the same for all."""
    return httpx2.create_ssl_context()


def _password(url: str) -> tuple[str, ...]:
    try:
        password = urlsplit(url).password
    except ValueError:
        return ()
    return (password,) if password else ()


async def _keep(pool: httpx2.AsyncClient) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        _open_pools.pop(pool, None)
        await pool.aclose()


async def _close(pool: httpx2.AsyncClient) -> None:
    keeper = _open_pools.get(pool)
    await (pool.aclose() if keeper is None else keeper.aclose())


def _close_later(loop: asyncio.AbstractEventLoop, pool: httpx2.AsyncClient) -> None:
    task = loop.create_task(_close(pool))
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # holds the task, and hears it out


async def _bound_error_body(response: httpx2.Response) -> None:
    """Keep the openai client from reading an error's body for ever: it reads all there is, without a limit."""
    if response.status_code >= 400:
        response.stream = _Bounded(response.stream)


class _Bounded(httpx2.AsyncByteStream):
    """Be the first of a stream's bytes: as many, and for as long, as an error's body is worth."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        loop = asyncio.get_running_loop()
        end = loop.time() + _ERROR_BODY_TIMEOUT
        pieces = aiter(self._stream)
        while size < _ERROR_BODY_LIMIT:
            try:
                async with asyncio.timeout_at(end):
                    piece = await anext(pieces)
            except StopAsyncIteration:
                return
            except (TimeoutError, httpx2.TransportError, OSError, ssl.SSLError):
                return  # the status says enough
            size += len(piece)
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()
