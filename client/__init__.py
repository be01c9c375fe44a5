"""Stream from vLLM, RunPod or OpenAI: `from client import LLMClient`.

Importing this package loads neither openai nor aiohttp nor pydantic: they load when a client is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from client._wire.chunk import Usage
    from client.completion import Completion
    from client.errors import (
        AuthenticationError,
        BadRequestError,
        ConfigurationError,
        LLMConnectionError,
        LLMError,
        LLMTimeoutError,
        ModelNotFoundError,
        RateLimitedError,
        ServerError,
        StreamInterruptedError,
        UnexpectedResponseError,
    )
    from client.llm import LLMClient
    from client.stats import Stats
    from client.stream import TextStream
    from client.telemetry import RequestEnd

__all__ = [
    "AuthenticationError",
    "BadRequestError",
    "Completion",
    "ConfigurationError",
    "LLMClient",
    "LLMConnectionError",
    "LLMError",
    "LLMTimeoutError",
    "ModelNotFoundError",
    "RateLimitedError",
    "RequestEnd",
    "ServerError",
    "Stats",
    "StreamInterruptedError",
    "TextStream",
    "UnexpectedResponseError",
    "Usage",
]

_HOMES = {
    "Completion": "completion",
    "LLMClient": "llm",
    "RequestEnd": "telemetry",
    "Stats": "stats",
    "TextStream": "stream",
    "Usage": "_wire.chunk",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"client.{_HOMES.get(name, 'errors')}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
