"""One engine of the fleet: a `python -m serving serve` of its own on loopback, which keeps its vLLM up by itself."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from typing import TYPE_CHECKING

import aiohttp

from client.terminal import sanitize_line
from serving.engine.metrics import read_sample
from serving.engine.process import EXIT_MARGIN_S
from serving.fleet.child import Child

if TYPE_CHECKING:
    from collections.abc import Callable

    from serving.fleet.layout import Start

PROBE_S = 2.0
# A machine that is busy may answer late; a process that is gone is seen at once.
SILENCE_S = 15.0
QUESTION_S = 120.0
QUESTION = "What is the capital of France?"
TAIL_LINES = 12


class Backend:
    """A server that the router may send requests to, here or elsewhere."""

    def __init__(self, name: str, url: str, http: aiohttp.ClientSession) -> None:
        self.name, self.url, self._http = name, url, http
        self.held = False  # the router must not have it, however well it is
        self._seen: float | None = None

    async def healthy(self) -> bool:
        """Whether it answers. One that stays silent is believed in for a while if it was well before."""
        try:
            async with self._http.get(f"{self.url}/health", timeout=aiohttp.ClientTimeout(PROBE_S)) as response:
                if response.status != 200:
                    self._seen = None
                else:
                    self._seen = time.monotonic()
                return response.status == 200
        except TimeoutError:
            return self._seen is not None and time.monotonic() - self._seen < SILENCE_S
        except (aiohttp.ClientError, OSError):
            self._seen = None
            return False


class Engine(Backend):
    """An engine of this machine. Its port is another with each start."""

    def __init__(self, number: int, http: aiohttp.ClientSession, say: Callable[[str], None]) -> None:
        super().__init__(f"engine {number}", "", http)
        self.start_with: Start | None = None
        self.child: Child | None = None
        self.failures = 0  # how often it ended by itself, and was never well before
        self.took: float | None = None  # its last start that ended well, in seconds
        self.tail: list[str] = []
        self._say = say
        self._began = 0.0
        self._ready_at: float | None = None

    @property
    def ended(self) -> bool:
        """Whether there is no process now."""
        return self.child is None or self.child.returncode is not None

    @property
    def lived(self) -> float:
        """For how many seconds it has been well since its start."""
        return 0.0 if self._ready_at is None else time.monotonic() - self._ready_at

    def left(self) -> float | None:
        """Return in how many seconds it may be ready, None if nothing is known of that."""
        if self.took is None:
            return None
        return self.took if self.ended else max(1.0, self.took - (time.monotonic() - self._began))

    async def start(self, start: Start) -> None:
        """Start it; it is ready later. Raises Refused."""
        port = free_port()
        self.start_with, self.url, self._seen, self._ready_at = start, f"http://127.0.0.1:{port}", None, None
        self.tail.clear()
        self._began = time.monotonic()
        argv = (sys.executable, "-m", "serving", "serve", "--env-file", "/dev/null")
        self.child = Child(argv, start.env | {"SERVE_PORT": str(port)}, self._line)
        await self.child.start()

    async def healthy(self) -> bool:
        """Whether it answers."""
        well = not self.ended and await super().healthy()
        if well and self._ready_at is None:
            self._ready_at = time.monotonic()
            self.took = self._ready_at - self._began
        return well

    async def ready(self) -> str | None:
        """Wait until it answers; return None then, or why it does not."""
        assert self.child is not None
        assert self.start_with is not None
        deadline = self._began + self.start_with.timeout
        while self.child.returncode is None:
            if await self.healthy():
                return None
            if time.monotonic() > deadline:
                return f"it was not ready within {self.start_with.timeout:.0f} s"
            await asyncio.sleep(0.3)
        said = self.tail[-1] if self.tail else "without a word"
        return f"it ended with status {self.child.returncode}: {said}"

    async def busy(self) -> int | None:
        """Return how many requests it has, None if it does not say."""
        try:
            async with self._http.get(
                f"{self.url}/metrics", headers=self._key(), timeout=aiohttp.ClientTimeout(PROBE_S * 5)
            ) as response:
                sample = read_sample(await response.text())
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError):
            return None
        return None if sample.busy is None else int(sample.busy)

    async def answers(self) -> str | None:
        """Ask it a question; return None if it answers, or what it says instead."""
        messages = [{"role": "user", "content": QUESTION}]
        try:
            async with self._http.get(f"{self.url}/v1/models", headers=self._key()) as response:
                model = (await response.json())["data"][0]["id"]
            asked = {"model": model, "max_tokens": 8, "temperature": 0}
            said = await self._ask("/v1/chat/completions", {**asked, "messages": messages})
            if said is not None:  # a model that is not for chats
                said = await self._ask("/v1/completions", {**asked, "prompt": QUESTION})
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError, LookupError, TypeError) as error:
            return f"its answer is none ({type(error).__name__})"
        return said

    async def _ask(self, path: str, body: dict[str, object]) -> str | None:
        timeout = aiohttp.ClientTimeout(QUESTION_S)
        async with self._http.post(self.url + path, json=body, headers=self._key(), timeout=timeout) as response:
            answer = await response.json()
            if response.status == 200 and answer["choices"][0]["finish_reason"]:
                return None
            return f"it answers a question with HTTP {response.status}"

    async def stop(self) -> None:
        """End it; what runs may finish, as SERVE_SHUTDOWN_TIMEOUT says."""
        if self.child is not None and self.child.returncode is None:
            assert self.start_with is not None
            # The engine's own supervisor kills in time; this is for one that hangs itself.
            await self.child.stop(self.start_with.drain + 2 * EXIT_MARGIN_S)

    def _key(self) -> dict[str, str]:
        key = self.start_with.key if self.start_with else None
        return {"Authorization": f"Bearer {key}"} if key else {}

    def _line(self, line: str) -> None:
        line = sanitize_line(line.rstrip("\r\n"))
        if line.strip():
            self.tail = [*self.tail[-TAIL_LINES:], line]
        self._say(f"{self.name} | {line}")


def free_port() -> int:
    """Return a port of loopback that nobody holds now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
