"""What is looked at while a load runs: what the test itself costs, and what the server says of itself."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import suppress
from typing import Any

import httpx
import msgspec

from serving.bench.level import TAIL, OwnCost, Planned, ServerView
from serving.engine import metrics
from serving.settings import is_loopback

TICK_S = 0.02
LOOK_S = 0.5
WATCHED = (metrics.KV_CACHE, metrics.RUNNING, metrics.WAITING, metrics.PREEMPTIONS)
TIMEOUT_S = 5.0
BODY_LIMIT = 16 << 20


class OwnWatch:
    """Counts this process's CPU, and how late its event loop gets to what is due."""

    def __init__(self) -> None:
        self._late: list[float] = []
        self._spent: tuple[float, float] | None = None
        self.start()

    def start(self) -> None:
        """Begin the time that counts anew."""
        self._late.clear()
        self._began = (time.process_time(), time.perf_counter())

    async def run(self) -> None:
        """Tick until cancelled."""
        loop = asyncio.get_running_loop()
        while self._spent is None:
            due = loop.time() + TICK_S
            await asyncio.sleep(TICK_S)
            self._late.append(loop.time() - due)

    def stop(self) -> None:
        """End the time that counts."""
        if self._spent is None:
            began_cpu, began = self._began
            self._spent = (time.process_time() - began_cpu, time.perf_counter() - began)

    def cost(self, tokens: float) -> OwnCost:
        """Return what it cost to read so many tokens."""
        self.stop()
        assert self._spent is not None
        cpu, wall = self._spent
        late = sorted(self._late)
        return OwnCost(
            cpu_share=cpu / wall if wall > 0 else 0.0,
            cpu_us_per_token=cpu / tokens * 1e6 if tokens > 0 else None,
            late=max(0.0, late[math.ceil(TAIL * len(late)) - 1]) if late else 0.0,
        )


class ServerWatch:
    """Reads a server's own gauges, where it shows them. Use as `async with`."""

    def __init__(self, base_url: str, headers: dict[str, str]) -> None:
        self._origin = base_url.rstrip("/").removesuffix("/v1")
        trusted = not is_loopback(httpx.URL(base_url).host)  # a proxy has no business on loopback
        self._http = httpx.AsyncClient(headers=headers, timeout=TIMEOUT_S, trust_env=trusted, verify=trusted)
        self._peaks: dict[str, float] = {}
        self._first: dict[str, float] = {}

    async def __aenter__(self) -> ServerWatch:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._http.aclose()

    async def planned(self) -> Planned:
        """Return the plan that stands beside the server's page, an empty one where there is none."""
        try:
            about: Any = (await self._http.get(f"{self._origin}/ui/about.json")).json()
        except (httpx.HTTPError, ValueError):
            return Planned()
        limits = about.get("limits") if isinstance(about, dict) else None
        found = limits if isinstance(limits, dict) else {}

        try:
            return msgspec.convert(found, Planned)
        except msgspec.ValidationError:
            return Planned()

    async def run(self) -> None:
        """Look again and again until cancelled, from now on."""
        self._peaks, self._first = {}, {}
        while True:
            with suppress(httpx.HTTPError, ValueError):
                await self._look()
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> None:
        async with self._http.stream("GET", f"{self._origin}/metrics") as answer:
            if answer.status_code != 200:
                return
            body = bytearray()
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > BODY_LIMIT:
                    return
        # Reading all of it would cost more than 256 streams do in that time.
        lines = [line for line in body.decode("utf-8", "replace").splitlines() if line.startswith(WATCHED)]
        for name, value in metrics.read_sample("\n".join([*lines, ""])).numbers.items():
            self._first.setdefault(name, value)
            self._peaks[name] = max(value, self._peaks.get(name, value))

    def view(self) -> ServerView | None:
        """Return what was seen since `run` began, None if the server shows nothing."""
        if not self._peaks:
            return None
        peak = self._peaks.get
        preemptions = peak(metrics.PREEMPTIONS)
        return ServerView(
            kv_cache=peak(metrics.KV_CACHE),
            running=peak(metrics.RUNNING),
            waiting=peak(metrics.WAITING),
            preemptions=None if preemptions is None else preemptions - self._first[metrics.PREEMPTIONS],
        )
