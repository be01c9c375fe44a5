"""What is told of a request without a word of what was said: `on_request_end`, and spans where LLM_TRACES is on.

A request here is a call of the application: retries and a fallback belong to it. Nothing is done per token. The spans
follow OpenTelemetry's conventions for generative AI, client inference and embeddings:
https://github.com/open-telemetry/semantic-conventions-genai
"""

from __future__ import annotations

import inspect
import logging
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from client.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from opentelemetry.trace import Span, Tracer

    Operation = Literal["chat", "embeddings"]

logger = logging.getLogger(__name__)

_SCOPE = "gemma-vllm-kit"
_PORTS = {"http": 80, "https": 443}
# Numbers of a request that say how, and never what, was asked.
_PARAMETERS = {
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "seed": "gen_ai.request.seed",
    "n": "gen_ai.request.choice.count",
    "dimensions": "gen_ai.embeddings.dimension.count",
}


@dataclass(frozen=True)
class RequestEnd:
    """How one request went; it never holds text of the prompt or the answer.

    `operation` is "chat" or "embeddings"; `endpoint` is the address that answered, or was the last to be asked.
    The tokens are the server's counts; where it sent none, `completion_tokens` is the number of pieces (`estimated`).
    `time_to_first_token` and `duration` are in seconds from the call, waiting and retries included.
    `error` is the class of what was raised ("RateLimitedError", or "CancelledError"), with its HTTP `status`; where it
    and `finish_reason` are both None, the caller left before the end.
    """

    operation: Operation
    model: str
    endpoint: str
    finish_reason: str | None = None
    error: str | None = None
    status: int | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False
    time_to_first_token: float | None = None
    duration: float = 0.0
    retries: int = 0
    request_id: str | None = None
    response_model: str | None = None


class Observer:
    """Where the ends of requests are told. Raises ConfigurationError for what cannot be told."""

    def __init__(self, on_request_end: Callable[[RequestEnd], object] | None = None, *, traces: bool = False) -> None:
        if on_request_end is not None and (not callable(on_request_end) or inspect.iscoroutinefunction(on_request_end)):
            raise ConfigurationError(
                "on_request_end must be a function, not an async one: it is called, and not awaited."
            )
        self._on_request_end = on_request_end
        self._tracer = _tracer() if traces else None

    def begin(self, operation: Operation, model: str, endpoint: str) -> Observation:
        """Take note that a request begins."""
        span = None
        if self._tracer is not None:
            from opentelemetry.trace import SpanKind  # loaded on first use

            attributes = {
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": "openai",  # the conventions' word for whoever speaks OpenAI's API
                "gen_ai.request.model": model,
                **_server(endpoint),
            }
            span = self._tracer.start_span(f"{operation} {model}", kind=SpanKind.CLIENT, attributes=attributes)
        return Observation(self._on_request_end, span)


class Observation:
    """One request that is under way."""

    __slots__ = ("_on_request_end", "_span")

    def __init__(self, on_request_end: Callable[[RequestEnd], object] | None, span: Span | None) -> None:
        self._on_request_end = on_request_end
        self._span = span

    def current(self) -> AbstractContextManager[object]:
        """Return what makes the request the one that the spans of the layers below belong to."""
        if self._span is None:
            return nullcontext()
        from opentelemetry.trace import use_span  # loaded on first use

        return use_span(self._span, record_exception=False, set_status_on_exception=False)

    def describe(self, arguments: Mapping[str, Any]) -> None:
        """Take what the request asks for, but for its words."""
        if self._span is None:
            return
        asked = {**(arguments.get("extra_body") or {}), **arguments}
        for name, attribute in _PARAMETERS.items():
            value = asked.get(name)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and (name, value) != ("n", 1):
                self._span.set_attribute(attribute, value)
        if asked.get("stream"):
            self._span.set_attribute("gen_ai.request.stream", value=True)
        wanted = asked.get("response_format")
        if isinstance(wanted, dict) and str(wanted.get("type")).startswith("json"):
            self._span.set_attribute("gen_ai.output.type", "json")

    def end(self, told: RequestEnd) -> None:
        """Tell of the end, whatever those who are told make of it."""
        if self._span is not None:
            self._end_span(self._span, told)
        if self._on_request_end is not None:
            try:
                self._on_request_end(told)
            except Exception:
                logger.exception("on_request_end failed")

    def _end_span(self, span: Span, told: RequestEnd) -> None:
        from opentelemetry.trace import StatusCode  # loaded on first use

        found: dict[str, Any] = {
            "gen_ai.response.id": told.request_id,
            "gen_ai.response.model": told.response_model,
            "gen_ai.response.finish_reasons": [told.finish_reason] if told.finish_reason else None,
            "gen_ai.response.time_to_first_chunk": told.time_to_first_token,
            "gen_ai.usage.input_tokens": told.prompt_tokens or None,
            "gen_ai.usage.output_tokens": None if told.estimated else told.completion_tokens or None,
            "gen_ai.usage.cache_read.input_tokens": told.cached_tokens or None,
            "gen_ai.usage.reasoning.output_tokens": told.reasoning_tokens or None,
            "error.type": told.error,
            **_server(told.endpoint),
        }
        span.set_attributes({name: value for name, value in found.items() if value is not None})
        if told.error is not None:
            span.set_status(StatusCode.ERROR)  # without a description: a server's error may quote the prompt
        span.end()


def _server(endpoint: str) -> dict[str, str | int]:
    parts = urlsplit(endpoint)
    return {"server.address": parts.hostname or "", "server.port": parts.port or _PORTS.get(parts.scheme, 0)}


def _tracer() -> Tracer:
    try:
        from opentelemetry.trace import get_tracer  # optional, and loaded on first use
    except ImportError as error:
        raise ConfigurationError(
            "LLM_TRACES is on, and OpenTelemetry is not here: `pip install opentelemetry-api`, or unset it."
        ) from error
    return get_tracer(_SCOPE)
