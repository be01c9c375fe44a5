"""The client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from client._wire.error_mapping import unsendable
from client._wire.request import arguments, is_omitted
from client.errors import ConfigurationError
from client.stream import TextStream
from client.telemetry import Observer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
    from types import TracebackType

    import httpx2
    import openai
    from openai import NotGiven, Omit
    from pydantic import BaseModel

    from client._wire.connection import Verify
    from client._wire.endpoint import Endpoint
    from client.completion import Completion
    from client.settings import ClientSettings
    from client.telemetry import RequestEnd

    Omitted = Omit | NotGiven
    ModelT = TypeVar("ModelT", bound=BaseModel)


class LLMClient:
    """Ask one endpoint: local vLLM, RunPod's `/openai/v1`, OpenAI.

    What is not given comes from `LLM_*` in the environment or `.env`, read now; None means "not given", 0 is a value,
    and `max_tokens` or `temperature` of `openai.omit` is left out of the request.
    `default_headers` go with every request to `base_url`. `verify` is False, a file of certificates to trust beside the
    system's, or an `ssl.SSLContext`; `http_client` takes the place of all connections, and stays its maker's to close.
    `on_request_end` is called with a `client.RequestEnd` once for each answer and each `embeddings`, however it ended.
    All timeouts are in seconds. One connection pool per client, for one event loop at a time; `aclose()` or
    `async with` closes it, else the end of its event loop does. `client` is the `openai.AsyncOpenAI` in use.
    Raises ConfigurationError, one sentence that names the setting and what is allowed.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        model: str | None = None,
        max_tokens: int | Omitted | None = None,
        temperature: float | Omitted | None = None,
        *,
        connect_timeout: float | None = None,
        first_token_timeout: float | None = None,
        idle_timeout: float | None = None,
        total_timeout: float | None = None,
        max_retries: int | None = None,
        max_concurrency: int | None = None,
        fallback_base_url: str | None = None,
        fallback_api_key: str | None = None,
        fallback_model: str | None = None,
        default_headers: Mapping[str, str] | None = None,
        http_client: httpx2.AsyncClient | None = None,
        verify: Verify | None = None,
        on_request_end: Callable[[RequestEnd], object] | None = None,
    ) -> None:
        from client.settings import OMIT, ClientSettings  # pydantic, and below openai and aiohttp, load on first use

        given = {name: value for name, value in locals().items() if name in ClientSettings.model_fields}
        given |= {name: OMIT for name, value in given.items() if is_omitted(value)}
        self._set_up(ClientSettings.load(**given), default_headers, http_client, verify, on_request_end)

    def _set_up(
        self,
        settings: ClientSettings,
        headers: Mapping[str, str] | None = None,
        http_client: httpx2.AsyncClient | None = None,
        verify: Verify | None = None,
        on_request_end: Callable[[RequestEnd], object] | None = None,
    ) -> None:
        import openai

        from client._wire.endpoint import Endpoint
        from client.settings import DEFAULT_MODEL, OMIT

        self._settings = settings
        self._observer = Observer(on_request_end, traces=settings.traces)
        self.model = DEFAULT_MODEL if settings.model is None else settings.model
        self.max_tokens: int | Omitted = openai.omit if settings.max_tokens == OMIT else settings.max_tokens
        self.temperature: float | Omitted = openai.omit if settings.temperature == OMIT else settings.temperature
        ways: dict[str, Any] = {"headers": headers, "http_client": http_client, "verify": verify}
        self._endpoint = Endpoint(settings, **ways)
        self._fallback = Endpoint(settings, fallback=True, **ways) if settings.fallback_base_url else None
        self.client: openai.AsyncOpenAI = self._endpoint.client
        self._slots: asyncio.Semaphore | None = None
        self._slots_loop: asyncio.AbstractEventLoop | None = None

    @property
    def base_url(self) -> str:
        """Return the address that is asked, without a password that may be in it."""
        return self._endpoint.name

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r}, model={self.model!r})"

    def stream(
        self,
        messages: Iterable[Mapping[str, Any]],
        max_tokens: int | Omitted | None = None,
        temperature: float | Omitted | None = None,
        **options: Any,
    ) -> TextStream:
        """Return the answer as an async iterable of text that also has its finish reason, usage, figures and more.

        `options` go into the request: `top_p`, `stop`, `seed`, `tools`, `response_format`, ..., and vLLM's own
        (`top_k`, `min_p`, ...). Raises ConfigurationError for messages that are none; iterating raises LLMError.
        """
        try:
            messages = [dict(message) for message in messages]
        except Exception as error:
            raise ConfigurationError("messages must be a list of messages, each with a role and a content.") from error

        def prepare(endpoint: Endpoint) -> dict[str, Any]:
            model = (self._settings.fallback_model if endpoint.fallback else None) or options.get("model") or self.model
            try:
                found = arguments(
                    messages,
                    model,
                    self.max_tokens if max_tokens is None else max_tokens,
                    self.temperature if temperature is None else temperature,
                    options,
                )
            except Exception as error:
                raise unsendable(error) from error
            endpoint.dialect.apply(model, found)
            return found

        self._endpoint.client = self.client  # which a test may have replaced
        endpoints = [self._endpoint, *([self._fallback] if self._fallback else [])]
        model = options.get("model") or self.model
        named = model if isinstance(model, str) else ""
        return TextStream(endpoints, prepare, self._settings, self._free_slots, self._observer, named)

    async def generate_streaming(
        self,
        messages: Iterable[Mapping[str, Any]],
        max_tokens: int | Omitted | None = None,
        temperature: float | Omitted | None = None,
        **options: Any,
    ) -> AsyncGenerator[str, None]:
        """Yield the pieces of text as they arrive; `options` as in `stream`. Raises LLMError.

        Leaving the loop stops the server's work. Who keeps a reference to the generator closes it himself
        (`contextlib.aclosing`).
        """
        async with self.stream(messages, max_tokens, temperature, **options) as stream:
            async for piece in stream:
                yield piece

    @overload
    async def generate(
        self,
        messages: Iterable[Mapping[str, Any]],
        max_tokens: int | Omitted | None = None,
        temperature: float | Omitted | None = None,
        *,
        response_model: None = None,
        **options: Any,
    ) -> str: ...

    @overload
    async def generate(
        self,
        messages: Iterable[Mapping[str, Any]],
        max_tokens: int | Omitted | None = None,
        temperature: float | Omitted | None = None,
        *,
        response_model: type[ModelT],
        **options: Any,
    ) -> ModelT: ...

    async def generate(
        self,
        messages: Iterable[Mapping[str, Any]],
        max_tokens: int | Omitted | None = None,
        temperature: float | Omitted | None = None,
        *,
        response_model: type[BaseModel] | None = None,
        **options: Any,
    ) -> str | BaseModel:
        """Return the whole text, or, with `response_model` (a pydantic model), a validated instance of it.

        `options` as in `stream`. Raises LLMError; an answer that does not validate is an UnexpectedResponseError with
        the text in `partial`.
        """
        if response_model is not None:
            from client.structured import response_format, validated

            options.setdefault("response_format", response_format(response_model))
        async with self.stream(messages, max_tokens, temperature, **options) as stream:
            async for _ in stream:
                pass
        return stream.text if response_model is None else validated(stream, response_model)

    async def complete(
        self,
        messages: Iterable[Mapping[str, Any]],
        max_tokens: int | Omitted | None = None,
        temperature: float | Omitted | None = None,
        **options: Any,
    ) -> Completion:
        """Return the whole answer with its finish reason, usage, tool calls and more; `options` as in `stream`.

        Raises LLMError.
        """
        async with self.stream(messages, max_tokens, temperature, **options) as stream:
            async for _ in stream:
                pass
        return stream.completion

    async def embeddings(
        self,
        input: str | Iterable[str] | Iterable[int] | Iterable[Iterable[int]],  # noqa: A002 - the API's name
        model: str | None = None,
        **options: Any,
    ) -> list[list[float]]:
        """Return a vector for each text of `input` (a text, texts, or tokens), in their order; none for no texts.

        `options` go into the request: `dimensions`, vLLM's own, ... The fallback is not asked: another model's vectors
        mean something else. Raises LLMError.
        """
        from client.embeddings import embed

        self._endpoint.client = self.client
        model = self.model if model is None else model
        return await embed(self._endpoint, self._settings, self._free_slots(), self._observer, input, model, options)

    async def models(self) -> list[str]:
        """Return the names of the models that the server has. Raises LLMError."""
        from client._wire.error_mapping import from_exception, timed_out

        try:
            return await self._endpoint.list_models(self._endpoint.first_token_timeout)
        except TimeoutError as error:
            raise timed_out("first_token", self._endpoint.first_token_timeout, self._endpoint) from error
        except Exception as error:
            failure = from_exception(error, self._endpoint)
            if failure is None:
                from client.errors import UnexpectedResponseError

                failure = UnexpectedResponseError(f"{self._endpoint.name} sent no list of models.")
            raise failure from error

    async def wait_until_ready(self, timeout: float, on_progress: Callable[[str], object] | None = None) -> None:
        """Wait until the endpoint can answer, at most `timeout` seconds.

        `on_progress` gets one line each time that what is waited for changes. On RunPod nothing is enqueued but, where
        no worker is up or coming, one listing of the models, so that one starts.
        Raises LLMTimeoutError, AuthenticationError, or ModelNotFoundError if the server is up without the model.
        """
        from client.readiness import wait_until_ready

        await wait_until_ready(self._endpoint, self.model, timeout, on_progress)

    async def aclose(self) -> None:
        """Close the connections; the client cannot be used afterwards."""
        await self._endpoint.aclose()
        if self._fallback is not None:
            await self._fallback.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _free_slots(self) -> asyncio.Semaphore | None:
        """Return what limits the requests in flight in the running event loop."""
        if self._settings.max_concurrency is None:
            return None
        loop = asyncio.get_running_loop()
        if self._slots is None or self._slots_loop is not loop:
            self._slots, self._slots_loop = asyncio.Semaphore(self._settings.max_concurrency), loop
        return self._slots
