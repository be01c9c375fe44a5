"""One load test from its first question to its result."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from serving.bench.goal import climb, climb_and_narrow
from serving.bench.level import Level, Planned, measured
from serving.bench.load import Arrivals, Load, Users, Window, keep_up
from serving.bench.result import Kind, Result
from serving.bench.watch import OwnWatch, ServerWatch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    from serving.bench.goal import Goal
    from serving.bench.load import Ask
    from serving.bench.target import Target

SEED = 20_26
PROGRESS_S = 1.0


class LoadTest:
    """A load test: `loads` are tried in turn, None stands for 1, 2, 4, ... users up to `most`.

    What was measured so far is in `levels`, so that a test that is broken off has not been for nothing.
    """

    def __init__(
        self,
        target: Target,
        goal: Goal,
        server: ServerWatch,
        *,
        kind: Kind,
        loads: Sequence[float] | None,
        most: int,
        least_s: float,
        usd_per_hour: float | None = None,
        commit: str | None = None,
        on_progress: Callable[[float, float, int], object] | None = None,
        on_level: Callable[[Level], object] | None = None,
    ) -> None:
        self.target = target
        self.goal = goal
        self.levels: list[Level] = []
        self._server = server
        self._kind: Kind = kind
        self._loads = loads
        self._most = most
        self._least_s = least_s
        self._usd_per_hour = usd_per_hour
        self._commit = commit
        self._planned = Planned()
        self._on_progress = on_progress
        self._on_level = on_level

    async def run(self) -> Result:
        """Warm the server up, climb, and return the result. Raises LLMError if not even a single request works."""
        self._planned = await self._server.planned()
        await self.target.prepare()
        if self._loads is None:
            await climb_and_narrow(self._most, self._measure, self.goal)
        else:
            await climb(self._loads, self._measure, self.goal)
        return self.result()

    def result(self) -> Result:
        """Return what is known so far."""
        return Result(
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            target=self.target.client.base_url,
            model=self.target.client.model,
            commit=self._commit,
            kind=self._kind,
            prompt=self.target.shape.prompt,
            answer=self.target.shape.answer,
            equal=self.target.equal,
            goal=self.goal,
            usd_per_hour=self._usd_per_hour,
            planned=self._planned,
            levels=tuple(sorted(self.levels, key=lambda level: level.load)),
        )

    async def _measure(self, amount: float) -> Level:
        load: Load = Users(amount) if self._kind == "users" else Arrivals(amount, random.Random(SEED))  # noqa: S311
        level = await measure(load, self.target.ask, self._least_s, self._server, self._on_progress)
        self.levels.append(level)
        if self._on_level is not None:
            self._on_level(level)
        return level


async def measure(
    load: Load,
    ask: Ask,
    least_s: float,
    server: ServerWatch | None = None,
    on_progress: Callable[[float, float, int], object] | None = None,
) -> Level:
    """Run one load for at least so many seconds and return its figures."""
    own = OwnWatch()
    window = Window(least_s, own.start, own.stop)

    async def progress(say: Callable[[float, float, int], object]) -> None:
        while True:
            say(load.amount, window.elapsed, len(window.asked))
            await asyncio.sleep(PROGRESS_S)

    beside: list[Coroutine[None, None, None]] = [own.run()]
    if server is not None:
        beside.append(server.run())
    if on_progress is not None:
        beside.append(progress(on_progress))
    async with _beside(beside):
        await keep_up(load, ask, window)
    began, ended = window.began, window.ended
    assert began is not None  # or the load would go on
    assert ended is not None
    tokens = sum(one.tokens_within(began, ended) for one in (*window.asked, *window.before))
    seen = server.view() if server is not None else None
    return measured(load.amount, window.asked, began, ended, own.cost(tokens), seen, window.before)


@asynccontextmanager
async def _beside(jobs: Sequence[Coroutine[None, None, None]]) -> AsyncIterator[None]:
    """Run jobs for as long as the block."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
