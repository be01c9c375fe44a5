"""Whether a running vLLM still does its work. It may be alive, and even answer /health, and help nobody.

Three signs, each of a kind that `/health` alone does not tell: the API process says nothing; the engine core behind it
stands still while requests wait; every request ends in an error of vLLM's own. What is not known is never held against
it: a counter that /metrics does not have is no zero.
"""

from __future__ import annotations

import http.client
import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psutil

if TYPE_CHECKING:
    from serving.engine.process import Engine

SILENT_AFTER_S = 60.0
STALLED_AFTER_S = 180.0
FAILING_AFTER_S = 60.0
# Fewer failures in a row may be one caller's.
FAILURES = 3
LOOK_S = 3.0  # longest wait for one answer
METRICS_LIMIT = 8 << 20  # bytes

_SAMPLE = re.compile(
    r"^(?:(?P<tokens>vllm:(?:prompt|generation)_tokens_total)|(?P<running>vllm:num_requests_running)"
    r'|(?P<ended>http_requests_total\{[^}\n]*status="(?P<status>\dxx)"))[^ \n]* (?P<value>\S+)$',
    re.MULTILINE,
)


@dataclass(frozen=True)
class Sight:
    """What one look showed; None is unknown. `served` and `failed` count requests: the latter ended in 5xx."""

    healthy: bool
    tokens: float | None = None
    running: float | None = None
    served: float | None = None
    failed: float | None = None
    core_stopped: bool = False


def look(engine: Engine, key: str | None = None) -> Sight:
    """Look at a running vLLM. Takes at most a few seconds, and never fails."""
    url = urlsplit(engine.base_url)
    host, port = url.hostname or "127.0.0.1", url.port or 80
    stopped = _core_stopped(engine.pid)
    if _get(host, port, "/health", None)[0] != HTTPStatus.OK:
        return Sight(healthy=False, core_stopped=stopped)
    status, text = _get(host, port, "/metrics", key)
    return read_metrics(text if status == HTTPStatus.OK else "", core_stopped=stopped)


def read_metrics(text: str, *, core_stopped: bool = False) -> Sight:
    """Read the answer of /metrics: sums over all engines."""
    sums: dict[str, float] = {}
    for sample in _SAMPLE.finditer(text):
        kind = "failed" if sample["status"] == "5xx" else "served" if sample["status"] == "2xx" else sample.lastgroup
        name = "tokens" if sample["tokens"] else "running" if sample["running"] else kind
        try:
            value = float(sample["value"])
        except ValueError:
            continue
        if name in ("tokens", "running", "served", "failed"):
            sums[name] = sums.get(name, 0.0) + value
    if "served" in sums or "failed" in sums:
        sums = {"served": 0.0, "failed": 0.0} | sums
    return Sight(healthy=True, core_stopped=core_stopped, **sums)


class Watchdog:
    """Judge what is seen, look after look. Times are seconds of one clock."""

    def __init__(self, now: float, *, stalled_after: float = STALLED_AFTER_S) -> None:
        self._stalled_after = stalled_after
        self._heard = now
        self._moved = now
        self._tokens: float | None = None
        self._counts: tuple[float, float] | None = None
        self._failing_since: float | None = None
        self._failures = 0.0

    def saw_end(self, status: int, now: float) -> None:
        """Count a request by the status it ended in. What is the caller's fault (4xx) says nothing."""
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self._count(0, 1, now)
        elif status < HTTPStatus.BAD_REQUEST:
            self._count(1, 0, now)

    def judge(self, sight: Sight, now: float, *, in_hand: int = 0) -> str | None:
        """Return a sentence without its full stop if vLLM is sick, else None.

        `in_hand`: requests that the caller knows to be waiting; /metrics knows only those that the core has reported.
        """
        if sight.healthy:
            self._heard = now
        elif now - self._heard > SILENT_AFTER_S:
            return f"vLLM is running and has not answered /health for {now - self._heard:.0f} s"
        waiting = max(in_hand, sight.running or 0)
        moved = sight.tokens != self._tokens
        self._tokens = sight.tokens
        if not sight.core_stopped and (moved or not waiting or sight.tokens is None):
            self._moved = now
        elif now - self._moved > self._stalled_after:
            what = "its engine core is stopped" if sight.core_stopped else f"{waiting:.0f} requests wait"
            return f"vLLM has computed no token for {now - self._moved:.0f} s, and {what}"
        if sight.served is not None and sight.failed is not None:
            before = self._counts or (sight.served, sight.failed)
            self._counts = (sight.served, sight.failed)
            self._count(sight.served - before[0], sight.failed - before[1], now)
        if (
            self._failing_since is not None
            and self._failures >= FAILURES
            and now - self._failing_since > FAILING_AFTER_S
        ):
            return f"each of the last {self._failures:.0f} requests ended in an error of vLLM's own (5xx)"
        return None

    def _count(self, served: float, failed: float, now: float) -> None:
        if served > 0:
            self._failing_since, self._failures = None, 0.0
        elif failed > 0:
            self._failing_since = now if self._failing_since is None else self._failing_since
            self._failures += failed


def _get(host: str, port: int, path: str, key: str | None) -> tuple[int, str]:
    connection = http.client.HTTPConnection(host, port, timeout=LOOK_S)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}"} if key else {})
        response = connection.getresponse()
        return response.status, response.read(METRICS_LIMIT).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


def _core_stopped(pid: int | None) -> bool:
    """Whether a process below vLLM's main one is stopped (by a signal, or a debugger)."""
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return False
    return any(_is_stopped(child) for child in children)


def _is_stopped(process: psutil.Process) -> bool:
    try:
        return process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    except psutil.Error:
        return False
