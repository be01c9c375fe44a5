"""A rolling restart: each engine in turn gets today's settings, and no request is lost.

For each: out of the router, its requests end whole, the process ends, a new one starts, answers `/health` and a real
question, and is put back. If it does not, the old settings come back, and the rest is left alone. The last engine that
serves is never touched, but where there is only one at all.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from serving.fleet.engine import SILENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from serving.fleet.engine import Engine
    from serving.fleet.fleet import Fleet
    from serving.fleet.layout import Start

COUNT_S = 0.5
TOLD_S = 10.0


class Reload:
    """One rolling restart of `fleet`. `say` shows what is going on; `drain` bounds the wait for one engine's requests.

    `break_off` may be called at any time: what has begun with one engine is finished or taken back, and no other is
    touched.
    """

    def __init__(self, fleet: Fleet, starts: Sequence[Start], drain: float, say: Callable[[str], None]) -> None:
        self._fleet, self._starts, self._drain, self._say = fleet, starts, drain, say
        self._broken_off = False

    def break_off(self) -> None:
        """Touch no further engine."""
        self._broken_off = True

    async def run(self) -> int:
        """Restart all; return 0 if every engine has the new settings, else 1."""
        fleet = self._fleet
        pairs = list(zip(fleet.engines, self._starts, strict=True))
        # What does not serve is repaired first: from then on it can stand in for the others.
        pairs.sort(key=lambda pair: pair[0].url in fleet.inside)
        for count, (engine, start) in enumerate(pairs, start=1):
            if self._broken_off:
                self._say(f"Broken off: {count - 1} of {len(pairs)} engines have the new settings.")
                return 1
            if engine in fleet.serving() and len(fleet.serving()) == 1:
                if len(fleet.backends) > 1:
                    self._say(f"{engine.name} is the only one that serves: left as it is.")
                    return 1
                self._say(gap(engine))
            if not await self._one(engine, start, f"{engine.name} ({count} of {len(pairs)})"):
                return 1
        self._say(f"{len(pairs)} of {len(pairs)} engines have the new settings.")
        return 0

    async def _one(self, engine: Engine, start: Start, name: str) -> bool:
        """Restart one engine; return whether it has the new settings."""
        fleet, old = self._fleet, engine.start_with
        try:
            if engine.url in fleet.inside:
                self._say(f"{name}: taken out of the router, finishing its requests")
                await fleet.take_out(engine)
                if not await self._drained(engine, name):
                    await fleet.put_back(engine)
                    return False
            engine.held = True
            problem = await self._change(engine, start, name)
            if problem is None and not await fleet.put_back(engine):
                problem = "it answered, and then did no more"
            if problem is None:
                self._say(f"{name}: back in the router after {engine.took or 0:.0f} s")
                return True
            engine.held = True
            self._say(f"{name}: the new settings do not work: {problem}")
            if old is None:
                return False
            self._say(f"{name}: starting it with the old settings")
            problem = await self._change(engine, old, name)
            if problem is None and await fleet.put_back(engine):
                self._say(f"{name}: serves with the old settings; the other engines were left alone.")
            else:
                self._say(f"{name}: does not come back with the old settings either: {problem or 'it does not stay'}")
            return False
        finally:
            engine.held = False  # and the fleet keeps it up from here

    async def _drained(self, engine: Engine, name: str) -> bool:
        """Wait until the engine has no request; return whether it has none."""
        begin = told = heard = time.monotonic()
        none = 0
        while none < 2:  # a request that has just come is not counted yet
            await asyncio.sleep(COUNT_S)
            if self._broken_off:
                self._say(f"Broken off: {name} is put back as it is.")
                return False
            running, now = await engine.busy(), time.monotonic()
            none = none + 1 if running == 0 else 0
            if running is not None:
                heard = now
            elif now - heard > SILENCE_S or not await engine.healthy():
                self._say(f"{name}: does not say how many requests it has; what runs has SERVE_SHUTDOWN_TIMEOUT to end")
                return True
            if now - begin > self._drain:
                self._say(f"{name}: still has {running} requests after {self._drain:.0f} s: put back as it is.")
                return False
            if running and now - told > TOLD_S:
                told = now
                self._say(f"{name}: {running} requests are running")
        return True

    async def _change(self, engine: Engine, start: Start, name: str) -> str | None:
        """End the engine and start it with `start`; return why it does not work, None if it does."""
        await engine.stop()
        self._say(f"{name}: starting")
        await engine.start(start)
        return await engine.ready() or await engine.answers()


def gap(engine: Engine) -> str:
    """Return what a restart of the only engine means."""
    about = f"about {engine.took:.0f} s, as long as its last start took" if engine.took else "as long as a start takes"
    return (
        f"{engine.name} is the only one, so there is a gap of {about}: callers get 503 with Retry-After meanwhile. "
        "Requests that run now end whole."
    )
