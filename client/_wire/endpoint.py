"""One place to ask: its address, key and model, and the openai client and connection pool that go there."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit, urlunsplit

import httpx2
import openai

from client._wire.chunk import clean, loads
from client._wire.connection import bound_bodies, open_pool, trust
from client._wire.dialect import Dialect
from client.errors import ConfigurationError
from client.settings import (
    FIRST_TOKEN_TIMEOUT,
    NO_KEY,
    RUNPOD_FIRST_TOKEN_TIMEOUT,
    checked_headers,
    parse_headers,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from client._wire.connection import Verify
    from client.settings import ClientSettings

_LISTING_TIMEOUT = 5.0  # seconds
# Characters; what is shorter is no secret, and masking it would spoil the message.
_KEY_LENGTH = 4
_HEADER_LENGTH = 6

# The open pools, each with the generator that closes it. asyncio.run() finishes the generators that its loop has begun:
# that closes the pool of a client nobody closed. Held here, since a client may be gone before its loop is.
_open_pools: dict[httpx2.AsyncClient, AsyncGenerator[None, None]] = {}


class Endpoint:
    """One endpoint.

    `client` is its `openai.AsyncOpenAI`, which retries nothing by itself: what may be sent again is decided in
    `client._wire.retry`. The connection pool belongs to the event loop that uses it, and is closed when that loop ends.
    """

    def __init__(
        self,
        settings: ClientSettings,
        *,
        fallback: bool = False,
        headers: Mapping[str, str] | None = None,
        http_client: httpx2.AsyncClient | None = None,
        verify: Verify | None = None,
    ) -> None:
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._given = http_client
        self.fallback = fallback
        self.dialect = Dialect()
        parts = urlsplit((settings.fallback_base_url or "") if fallback else settings.base_url)
        self.base_url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))
        self.base_url = self.base_url.rstrip("/")
        self.query: dict[str, Any] = dict(parse_qsl(parts.query, keep_blank_values=True))
        # The headers are made for the first endpoint, and may be secret: another host does not get them.
        first = urlsplit(settings.base_url)
        same = (parts.scheme, parts.netloc.rpartition("@")[2]) == (first.scheme, first.netloc.rpartition("@")[2])
        own = {**parse_headers(settings.headers), **checked_headers(headers or {})} if same else {}
        key = (settings.fallback_api_key if fallback else settings.api_key).get_secret_value()
        if parts.username or parts.password:
            own = {**self._login(parts, key), **own}
        secrets = [settings.api_key.get_secret_value(), settings.fallback_api_key.get_secret_value()]
        secrets += [parts.password or "", unquote(parts.password or "")]
        secrets += [value for value in (*own.values(), *self.query.values()) if len(value) >= _HEADER_LENGTH]
        self.keys = tuple(dict.fromkeys(one for one in secrets if len(one) >= _KEY_LENGTH and one != NO_KEY))
        self.connect_timeout = settings.connect_timeout
        self.first_token_timeout = settings.first_token_timeout or (
            RUNPOD_FIRST_TOKEN_TIMEOUT if self.is_runpod else FIRST_TOKEN_TIMEOUT
        )
        # Reads have deadlines of our own, which comments cannot postpone; "pool" covers DNS and TLS.
        self._timeout = httpx2.Timeout(None, connect=self.connect_timeout, pool=self.connect_timeout)
        if http_client is not None and verify is not None:
            raise ConfigurationError("Give `verify` to the http_client that you make: LLMClient takes one of the two.")
        self._trust = trust(verify, settings.ca_file) if http_client is None else None
        self._http = self._new_pool()
        self._own_headers = httpx2.Headers(own)
        self.client = self._openai = openai.AsyncOpenAI(
            base_url=self.base_url,
            api_key=key,
            max_retries=0,
            timeout=self._timeout,
            http_client=self._http,
            default_headers=own or None,
            default_query=self.query or None,
        )

    @property
    def is_runpod(self) -> bool:
        """Return whether requests become RunPod jobs: by the host, or by a path such as /v2/ID/openai/v1."""
        parts = urlsplit(self.base_url)
        host = parts.hostname or ""
        path = parts.path.split("/")
        return host == "api.runpod.ai" or host.endswith(".api.runpod.ai") or (path[1:2] == ["v2"] and "openai" in path)

    @property
    def name(self) -> str:
        """Return the address, fit for a message."""
        return self.base_url

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
        if self._loop is not None and self._given is None:
            if not self._loop.is_closed():
                raise ConfigurationError("This LLMClient is in use in another event loop: make one for each loop.")
            self._http = self._openai._client = self._new_pool()
        self._loop = loop
        if self._given is not None:
            return  # who made it closes it
        keeper = _open_pools[self._http] = _keep(self._http)
        await anext(keeper)

    async def aclose(self) -> None:
        """Close the connections; nothing can be sent afterwards."""
        self._closed = True
        if self._given is None:
            await _close(self._http)

    def __del__(self) -> None:
        """Close the connections of a client that was dropped while its loop goes on."""
        loop = self._loop
        if not self._closed and self._given is None and loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(_close_later, loop, self._http)

    async def get(self, url: str, timeout: float | None) -> httpx2.Response:
        """GET `url` with the key. Raises TimeoutError after `timeout` seconds (None: never), or httpx2's errors."""
        headers = httpx2.Headers(self._openai.auth_headers)
        headers.update(self._own_headers)
        async with asyncio.timeout(timeout):
            return await self._http.get(url, headers=headers, params=self.query or None, timeout=self._timeout)

    async def list_models(self, timeout: float = _LISTING_TIMEOUT) -> list[str]:
        """Return the names of the server's models.

        Raises what the openai client raises, TimeoutError, or ValueError for what is no list of models.
        """
        await self.enter_loop()
        asked = self.client if issubclass(type(self.client), openai.AsyncOpenAI) else self._openai  # not a mock
        async with asyncio.timeout(timeout):
            response = await asked.models.with_raw_response.list()
        names = model_names(loads(response.content))
        if names is None:
            raise ValueError("no list of models")
        return names

    def _new_pool(self) -> httpx2.AsyncClient:
        if self._given is None:
            assert self._trust is not None
            return open_pool(self._timeout, self._trust)
        if not isinstance(self._given, httpx2.AsyncClient):
            raise ConfigurationError(
                "http_client must be an httpx2.AsyncClient, such as openai.DefaultAioHttpClient(...), "
                f"not {type(self._given).__name__}."
            )
        bound_bodies(self._given)
        return self._given

    def _login(self, parts: SplitResult, key: str) -> dict[str, str]:
        if key != NO_KEY:
            raise ConfigurationError(
                f"{self.variable('BASE_URL')} holds a user's name and password, and {self.variable('API_KEY')} is set: "
                "both would be the header Authorization. Remove one of them."
            )
        login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        return {"Authorization": f"Basic {b64encode(login.encode()).decode()}"}


def model_names(body: object) -> list[str] | None:
    """Return the names in a decoded list of models, or None where it is none."""
    entries = body.get("data") if isinstance(body, dict) else None
    if not isinstance(entries, list):
        return None
    return [clean(entry["id"]) for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)]


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
