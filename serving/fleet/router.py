"""vLLM's own router (vllm-router 0.1.17): how it is called, and how an engine is put in and taken out while it runs.

A worker that is taken out of its list gets no new request, and its running streams go on to their end (tried). Its
management is open to whoever reaches its port, so it listens on loopback, on a port of its own, behind `front`.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from serving.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = "vllm-router"
# What begins alike goes to the same engine, whose prefix cache then holds it, until that has a few requests more.
POLICY = ("--policy", "cache_aware", "--balance-abs-threshold", "4", "--balance-rel-threshold", "1.2")
# An engine that is gone is left alone within a second, and is back within one. With the router's own figures a restart
# of one engine after the other becomes thousands of answers of 503 (vllm-project/router#140).
SURVIVES_RESTARTS = (
    *("--health-check-interval-secs", "1", "--health-failure-threshold", "1", "--health-success-threshold", "1"),
    *("--cb-failure-threshold", "3", "--cb-success-threshold", "1", "--cb-timeout-duration-secs", "1"),
)  # fmt: skip
REQUEST_TIMEOUT_S = 1800  # of a whole answer
START_S = 60.0
ASK_S = 10.0


def arguments(urls: Sequence[str], host: str, port: int, startup_timeout: float) -> list[str]:
    """Return the router's arguments; without `urls` it begins with no worker."""
    words = ["--worker-urls", *urls] if urls else []
    words += [*POLICY, "--host", host, "--port", str(port), *SURVIVES_RESTARTS]
    words += ["--worker-startup-timeout-secs", f"{startup_timeout:.0f}", "--worker-startup-check-interval", "1"]
    return [*words, "--request-timeout-secs", str(REQUEST_TIMEOUT_S)]


def find_router() -> str:
    """Return the router's program: of this environment, else the one on PATH. Raises Refused."""
    beside = Path(sys.executable).with_name(PROGRAM)
    found = str(beside) if beside.is_file() else shutil.which(PROGRAM)
    if found is None:
        raise Refused("There is no vllm-router here, which a fleet needs: run `make setup` (Linux on x86-64 has it).")
    return found


class Workers:
    """The list of workers of a running router."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self._url, self._http = url, http

    async def now(self) -> set[str] | None:
        """Return the addresses of the workers, None if the router does not answer."""
        try:
            async with self._http.get(f"{self._url}/list_workers", timeout=aiohttp.ClientTimeout(ASK_S)) as response:
                return set((await response.json())["urls"])
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError, LookupError, TypeError):
            return None

    async def add(self, url: str) -> bool:
        """Put a worker in, which must be healthy; return whether it is in."""
        return await self._post("add_worker", url)

    async def remove(self, url: str) -> bool:
        """Take a worker out; its running requests go on. Return whether it is out."""
        return await self._post("remove_worker", url)

    async def _post(self, what: str, url: str) -> bool:
        try:
            async with self._http.post(
                f"{self._url}/{what}", params={"url": url}, timeout=aiohttp.ClientTimeout(ASK_S)
            ) as response:
                return response.status == 200
        except (TimeoutError, aiohttp.ClientError, OSError):
            return False
