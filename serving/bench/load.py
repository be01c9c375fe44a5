"""Two kinds of load. Closed: N users, each asks again when it has its answer. Open: requests arrive, whoever waits.

Only the requests that begin in the measured time count, and the load goes on until each of them has its answer, so that
none of them is answered by a server that is being left alone; what is then under way is cut off and does not count.
With users the time begins with the first answer and ends with one, so that it holds whole turns and no arriving.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import random

    from serving.bench.level import Asked

Ask = Callable[[float], Awaitable["Asked"]]
"""Sends one request, which was due at the given time of the event loop, and returns what came of it. Raises nothing."""

AFTER_AN_ERROR_S = 0.5
LEAST_ARRIVALS = 20
LEAST_ANSWERS = 3
# So that the users' own work, about 2 ms of CPU for each request, does not add up in every first token.
BETWEEN_USERS_S = 0.01
ALL_BEGIN_WITHIN_S = 1.0


class Window:
    """The measured time, and the requests that began in it."""

    def __init__(
        self, least_s: float, on_begin: Callable[[], None] | None = None, on_end: Callable[[], None] | None = None
    ) -> None:
        self.asked: list[Asked] = []
        self.before: list[Asked] = []  # begun before it, and at least in part answered in it
        self.began: float | None = None
        self.ended: float | None = None
        self.over = asyncio.Event()
        self._least_s = least_s
        self._on_begin = on_begin
        self._on_end = on_end
        self._open = 0

    @property
    def elapsed(self) -> float:
        """Return for how long it has been going on."""
        return 0.0 if self.began is None else asyncio.get_running_loop().time() - self.began

    def begin(self) -> None:
        """Begin the measured time, if it has not begun."""
        if self.began is None:
            self.began = asyncio.get_running_loop().time()
            if self._on_begin is not None:
                self._on_begin()

    async def ask(self, ask: Ask, due: float) -> Asked:
        """Send a request, and count it if the window is open."""
        counts = self.began is not None and self.ended is None
        self._open += counts
        found = await ask(due)
        if counts:
            self._open -= 1
            self.asked.append(found)
        elif self.began is not None and due < self.began:
            self.before.append(found)
        self._look()
        return found

    def close_if(self, *, enough: bool) -> None:
        """End the measured time if it has been long enough and there is `enough` in it."""
        if self.began is not None and self.ended is None and enough and self.elapsed >= self._least_s:
            self.ended = asyncio.get_running_loop().time()
            if self._on_end is not None:
                self._on_end()
        self._look()

    def _look(self) -> None:
        if self.ended is not None and self._open == 0:
            self.over.set()


class Load(Protocol):
    """A kind of load, of an amount."""

    amount: float

    async def run(self, ask: Ask, window: Window) -> None:
        """Keep the load up until it is cancelled, and close the window in time."""


class Users:
    """Closed loop: so many users, each of whom asks again as soon as the answer is whole."""

    def __init__(self, amount: float) -> None:
        self.amount = amount

    async def run(self, ask: Ask, window: Window) -> None:
        """Keep the users asking."""
        loop = asyncio.get_running_loop()

        between = min(BETWEEN_USERS_S, ALL_BEGIN_WITHIN_S / self.amount)

        async def user(number: int) -> None:
            await asyncio.sleep(number * between)
            while True:
                found = await window.ask(ask, loop.time())
                window.begin()
                window.close_if(enough=len(window.asked) >= max(LEAST_ANSWERS, self.amount))
                if found.error is not None:
                    await asyncio.sleep(AFTER_AN_ERROR_S)

        async with asyncio.TaskGroup() as group:
            for number in range(int(self.amount)):
                group.create_task(user(number))


class Arrivals:
    """Open loop: so many requests a second, at random times (Poisson), however many are still being answered."""

    def __init__(self, amount: float, dice: random.Random) -> None:
        self.amount = amount
        self._dice = dice

    async def run(self, ask: Ask, window: Window) -> None:
        """Let requests arrive. One that is sent late counts from when it was due."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        arrived = 0
        window.begin()
        async with asyncio.TaskGroup() as group:
            while True:
                due += self._dice.expovariate(self.amount)
                await asyncio.sleep(max(0.0, due - loop.time()))
                window.close_if(enough=arrived >= LEAST_ARRIVALS)
                arrived += 1
                group.create_task(window.ask(ask, due))


async def keep_up(load: Load, ask: Ask, window: Window) -> None:
    """Run a load until all that counts has ended, then cut the rest off."""
    running = asyncio.ensure_future(load.run(ask, window))
    over = asyncio.ensure_future(window.over.wait())
    try:
        await asyncio.wait({running, over}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await running  # it never ends but by an error
    finally:
        running.cancel()
        over.cancel()
        await asyncio.gather(running, over, return_exceptions=True)
