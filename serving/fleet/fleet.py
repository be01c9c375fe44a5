"""The fleet: engines, the router and the address in front, kept in step by one loop in one process.

    callers -> front (SERVE_HOST:SERVE_PORT) -> vllm-router (loopback) -> engines (loopback), and FLEET_URLS

Each engine is a `python -m serving serve`, which starts its own vLLM again when that dies. The fleet puts into the
router what is healthy and takes out what is not, starts again an engine that has given up, and the router, too. Engines
and router run under reapers, so that nothing is left when the fleet ends, however it ends.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import aiohttp

from serving.errors import EngineFailed, Refused
from serving.fleet.child import Child
from serving.fleet.engine import Backend, Engine, free_port
from serving.fleet.front import Front
from serving.fleet.router import START_S, Workers, arguments, find_router

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from serving.fleet.layout import Start

LOOK_S = 0.4
PUT_BACK_S = 60.0
FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 60.0
# What a caller is told when nothing is known of how long a start takes.
RETRY_AFTER_S = 10.0
LONGEST_RETRY_AFTER_S = 60.0


class Fleet:
    """The running fleet. `say` gets lines for a person; `starts` is what each engine is started with."""

    def __init__(self, starts: Sequence[Start], others: Sequence[str], say: Callable[[str], None]) -> None:
        self.say = say
        self.http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), trust_env=False)
        self.engines = [Engine(number, self.http, say) for number in range(1, len(starts) + 1)]
        self.others: list[Backend] = []
        self.set_others(others)
        self.inside: set[str] = set()  # the addresses that the router has
        self.changed = asyncio.Condition()
        self._starts = starts
        self._router = find_router()
        self._router_url = f"http://127.0.0.1:{free_port()}"
        self._workers = Workers(self._router_url, self.http)
        self.front = Front(self._router_url, lambda: sorted(self.inside), self.waits)
        self.stopping = asyncio.Event()
        self._failed: EngineFailed | None = None
        self._looking = asyncio.Lock()
        self._router_child: Child | None = None

    @property
    def backends(self) -> list[Backend]:
        """Return all that the router may have."""
        return [*self.engines, *self.others]

    def serving(self) -> list[Backend]:
        """Return what the router has now."""
        return [backend for backend in self.backends if backend.url in self.inside]

    def waits(self) -> float:
        """Return after how many seconds an engine may be ready."""
        known = [left for engine in self.engines if (left := engine.left()) is not None]
        return min([*known, LONGEST_RETRY_AFTER_S]) if known else RETRY_AFTER_S

    async def run(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Serve until told to stop, and return 0. Raises Refused, or EngineFailed if no engine has ever come up."""
        try:
            await self.front.start(host, port, tls)
        except OSError as error:
            await self._end()
            raise Refused(f"SERVE_HOST={host!r}, port {port} cannot be listened on: {error.strerror}.") from error
        keepers = [asyncio.create_task(self._keep_router()), asyncio.create_task(self._keep_in_step())]
        keepers += [
            asyncio.create_task(self._keep(engine, start))
            for engine, start in zip(self.engines, self._starts, strict=True)
        ]
        stopping = asyncio.create_task(self.stopping.wait())
        try:
            await asyncio.wait([stopping, *keepers], return_when=asyncio.FIRST_COMPLETED)
            for keeper in keepers:
                if keeper.done():
                    keeper.result()  # none ends by itself but with an error
            if self._failed is not None:
                raise self._failed
            return 0
        finally:
            stopping.cancel()
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            await self._end()

    def stop(self) -> None:
        """End: running requests may finish, new ones are refused. A second time: end now."""
        if not self.stopping.is_set():
            self.say("Stopping: running requests may finish; once more stops at once.")
        else:
            for engine in self.engines:
                if engine.child is not None:
                    engine.child.kill()
        self.stopping.set()

    async def _end(self) -> None:
        self.front.closing = True
        await asyncio.gather(*(engine.stop() for engine in self.engines))
        if self._router_child is not None:
            await self._router_child.stop(1)
        await self.front.close()
        await self.http.close()

    async def _keep_router(self) -> None:
        port = self._router_url.rpartition(":")[2]
        argv = [self._router, *arguments((), "127.0.0.1", int(port), START_S)]
        # Nobody asks for the router's own metrics here, and its default port may be another's.
        argv += ["--prometheus-port", str(free_port()), "--log-level", "error"]
        while True:
            self._router_child = Child(argv, os.environ, lambda line: None if "DEBUG" in line else self.say(line))
            await self._router_child.start()
            await self._router_child.wait()
            self.say("The router ended: starting it again.")
            self.inside.clear()
            await asyncio.sleep(1)

    async def _keep_in_step(self) -> None:
        """Put into the router what is healthy and not held, and take out what is not."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Bring the router in step once."""
        async with self._looking:
            await self._look()

    async def _look(self) -> None:
        health = await asyncio.gather(*(backend.healthy() for backend in self.backends))
        has = await self._workers.now()
        if has is None:
            return
        wanted = {b.url for b, well in zip(self.backends, health, strict=True) if well and not b.held}
        for url in has - wanted:
            await self._workers.remove(url)
        for url in wanted - has:
            await self._workers.add(url)
        now = await self._workers.now()
        names = {backend.url: backend.name for backend in self.backends}
        async with self.changed:
            for url in (now or set()) - self.inside:
                self.say(f"{names.get(url, url)} serves: {url}")
            for url in self.inside - (now or set()):
                self.say(f"{names.get(url, url)} is out of the router.")
            self.inside = now or set()
            self.changed.notify_all()

    async def take_out(self, backend: Backend) -> None:
        """Take a backend out of the router until `put_back`; its running requests go on."""
        backend.held = True
        await self.look()
        while backend.url in self.inside:
            await asyncio.sleep(LOOK_S)
            await self.look()

    async def put_back(self, backend: Backend) -> bool:
        """Let the router have a backend again; return whether it soon does."""
        backend.held = False
        try:
            async with asyncio.timeout(PUT_BACK_S), self.changed:
                await self.changed.wait_for(lambda: backend.url in self.inside)
        except TimeoutError:
            return False
        return True

    def set_others(self, urls: Sequence[str]) -> None:
        """Take these servers on other machines from now on."""
        known = {other.url: other for other in self.others}
        self.others = [known.get(url) or Backend(url, url, self.http) for url in urls]

    async def _keep(self, engine: Engine, start: Start) -> None:
        """Keep an engine's process up. While it is held, somebody else starts and ends it."""
        await engine.start(start)
        pause = FIRST_PAUSE_S
        while True:
            await asyncio.sleep(LOOK_S)
            if engine.held or not engine.ended:
                continue
            assert engine.child is not None
            assert engine.start_with is not None
            lived = engine.lived
            engine.failures += 1
            if all(other.failures and other.took is None for other in self.engines):
                self._failed = EngineFailed("No engine of the fleet came up: what each says stands above.")
                self._failed.exit_status = max(engine.child.returncode or 1, 1)
                self.stopping.set()
            pause = FIRST_PAUSE_S if lived > LONGEST_PAUSE_S else min(pause * 2, LONGEST_PAUSE_S)
            self.say(f"{engine.name} ended with status {engine.child.returncode}: starting it again in {pause:.0f} s.")
            await asyncio.sleep(pause)
            if engine.ended and not engine.held:
                await engine.start(engine.start_with)
