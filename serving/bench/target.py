"""The server under test, asked with the kit's own client."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from client.errors import BadRequestError, LLMError
from serving.bench.level import Asked

if TYPE_CHECKING:
    from client import LLMClient

# Common words, nearly all of them one token in any vocabulary. A prompt is a draw from them, so that no two begin alike
# and no prefix cache answers.
WORDS = """
time year people way day man thing woman life child world school state family student group country problem
hand part place case week company system program question work number night point home water room mother
area money story fact month lot right study book eye job word business issue side kind head house service
friend father power hour game line end member law car city name team minute idea kid body back parent face
others level office door health person art war history party result change morning reason research girl guy
moment air teacher force foot
""".split()  # noqa: SIM905 - a list would be a page
PROBE_WORDS = 8
TOKENS_A_WORD = 1.3  # where the server does not count


@dataclass(frozen=True)
class Shape:
    """What is asked: tokens in a prompt, and the least and the most tokens of an answer."""

    prompt: int
    answer: tuple[int, int]


class Target:
    """Asks for answers of a shape. `equal` says whether the server writes them to their full length."""

    def __init__(self, client: LLMClient, shape: Shape) -> None:
        self.client = client
        self.shape = shape
        self.equal = True
        self.counted = True
        self._words = max(1, round(shape.prompt / TOKENS_A_WORD))
        self._dice = random.Random()  # noqa: S311 - another draw each time, or the last run's prompts would be cached

    async def prepare(self) -> None:
        """Find out how the server counts and whether it can be told to go on, and warm it up. Raises LLMError."""
        try:
            small = await self._probe(PROBE_WORDS)
        except BadRequestError:
            self.equal = False  # `ignore_eos` is vLLM's own
            small = await self._probe(PROBE_WORDS)
        large = await self._probe(self._words + PROBE_WORDS)
        self.counted = small > 0 and large > small
        if self.counted:
            each = (large - small) / self._words
            self._words = max(1, round(PROBE_WORDS + (self.shape.prompt - small) / each))
        stream = self.client.stream(self._messages(self._words), self.shape.answer[1], **self._options())
        async with stream:
            async for _ in stream:
                pass

    async def ask(self, due: float) -> Asked:
        """Ask once; return what came of it."""
        loop = asyncio.get_running_loop()
        length = self._dice.randint(*self.shape.answer)
        began = loop.time()
        stream = self.client.stream(self._messages(self._words), length, **self._options())
        try:
            async with stream:
                async for _ in stream:
                    pass
        except LLMError as error:
            return Asked(due, None, loop.time(), error=type(error).__name__)
        stats, usage = stream.stats, stream.usage
        first = stats.time_to_first_token
        return Asked(
            due,
            None if first is None else began + first,
            began + stats.duration,
            usage.prompt_tokens if usage else 0,
            stats.tokens,
            estimated=stats.estimated,
        )

    async def _probe(self, words: int) -> int:
        done = await self.client.complete(self._messages(words), 2, **self._options())
        return done.usage.prompt_tokens if done.usage else 0

    def _messages(self, words: int) -> list[dict[str, str]]:
        return [{"role": "user", "content": " ".join(self._dice.choices(WORDS, k=words))}]

    def _options(self) -> dict[str, Any]:
        return {"ignore_eos": True} if self.equal else {}
