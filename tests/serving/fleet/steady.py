"""Streams one after the other, as callers see them: every answer must come whole, and every failure is written down."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass
class Steady:
    """`whole` counts answers that ended as they should; `failures` says what became of the others."""

    url: str
    body: dict[str, Any]
    expected: int | None = None  # pieces of text in a whole answer
    key: str | None = None
    end: str = '"finish_reason"'  # what a whole answer holds near its end
    pause: float = 0.0  # seconds between two requests of a caller
    whole: int = 0
    failures: list[str] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def streams(self, count: int) -> AsyncIterator[Steady]:
        """Keep `count` streams running inside the block; each that runs at its end is awaited, too."""
        over = asyncio.Event()
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
            tasks = [asyncio.create_task(self._forever(session, number, over)) for number in range(count)]
            try:
                yield self
            finally:
                over.set()
                await asyncio.gather(*tasks)

    async def more(self, count: int) -> None:
        """Wait until so many more answers are whole (or one has failed, which the test will tell)."""
        goal = self.whole + count
        while self.whole < goal and not self.failures:
            await asyncio.sleep(0.05)

    async def _forever(self, session: aiohttp.ClientSession, number: int, over: asyncio.Event) -> None:
        turn = 0
        while not over.is_set():
            turn += 1
            question = {"messages": [{"role": "user", "content": f"Question {turn} of caller {number}"}]}
            try:
                async with session.post(self.url, json={**self.body, **question, "stream": True}) as response:
                    text = await response.text()
            except (aiohttp.ClientError, OSError) as error:
                self.failures.append(f"{type(error).__name__}: {error}")
            else:
                pieces = text.count('"content": "') + text.count('"content":"') - 1  # the first event has none
                done = response.status == 200 and text.rstrip().endswith("data: [DONE]") and self.end in text
                if done and self.expected in (None, pieces):
                    self.whole += 1
                else:
                    self.failures.append(f"HTTP {response.status}, {pieces} pieces: {text[-200:]}")
            await asyncio.sleep(self.pause)
