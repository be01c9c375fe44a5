"""A client for an application's own tests: the same interface, answers that are given, and no server.

    client = FakeLLMClient(["Hel", 0.1, "lo"], [ServerError("down", status=503)])

The first request gets "Hel", a pause of 0.1 s and "lo"; the second fails, as does every one after it.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from client._wire.request import embedding_arguments, is_one_text
from client.llm import LLMClient
from client.settings import ClientSettings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    from client.telemetry import RequestEnd

    Step = str | float | Exception


class FakeLLMClient(LLMClient):
    """A client that answers with what is given: per request, pieces of text, pauses in seconds, and an error to end in.

    The last answer serves all further requests. Everything above the connection is the real client's. `requests` holds
    the arguments of each `chat.completions.create`: `messages`, `max_tokens`, ... Nothing is read from the environment.
    """

    def __init__(
        self,
        *answers: Iterable[Step],
        model: str = "fake",
        total_timeout: float | None = None,
        on_request_end: Callable[[RequestEnd], object] | None = None,
    ) -> None:
        settings = ClientSettings.model_construct(model=model, max_retries=0, total_timeout=total_timeout)
        self._set_up(settings, on_request_end=on_request_end)
        self.requests: list[dict[str, Any]] = []
        self._answers = [[answer] if isinstance(answer, str) else list(answer) for answer in answers] or [["Hello"]]
        completions = SimpleNamespace(create=self._create)
        self.client: Any = SimpleNamespace(chat=SimpleNamespace(completions=completions))

    async def embeddings(
        self,
        input: str | Iterable[str] | Iterable[int] | Iterable[Iterable[int]],  # noqa: A002 - the API's name
        model: str | None = None,
        **options: Any,
    ) -> list[list[float]]:
        """Return a vector for each text that depends on the text alone."""
        texts = embedding_arguments(input, model or self.model, options)["input"]
        return [[float(len(text)), 1.0] for text in ([texts] if is_one_text(texts) else texts)]

    async def models(self) -> list[str]:
        """Return the one model."""
        return [self.model]

    async def wait_until_ready(self, timeout: float, on_progress: Callable[[str], object] | None = None) -> None:
        """Return at once."""

    async def _create(self, **arguments: Any) -> AsyncGenerator[Any, None]:
        self.requests.append(arguments)
        return _play(self._answers.pop(0) if len(self._answers) > 1 else self._answers[0])


async def _play(steps: Iterable[Step]) -> AsyncGenerator[Any, None]:
    for step in steps:
        if isinstance(step, Exception):
            raise step
        if isinstance(step, str):
            yield _chunk(step)
        else:
            await asyncio.sleep(step)
    yield _chunk(None, "stop")


def _chunk(content: str | None, finish_reason: str | None = None) -> SimpleNamespace:
    return SimpleNamespace(
        choices=[SimpleNamespace(delta=SimpleNamespace(content=content), finish_reason=finish_reason)]
    )
