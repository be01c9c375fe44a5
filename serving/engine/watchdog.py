"""Whether a running vLLM still does its work. It may be alive, and even answer /health, and help nobody.

Three signs, each of a kind that `/health` alone does not tell: the API process says nothing; the engine core behind it
stands still while requests wait; every request ends in an error of vLLM's own. What is not known is never held against
it: a counter that /metrics does not have is no zero. Nor is what takes long: a core that computes is given far longer
than one that does not.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

import psutil

from serving.engine import metrics

if TYPE_CHECKING:
    from serving.engine.process import Engine

EVERY_S = 2.0
SILENT_AFTER_S = 60.0
STALLED_AFTER_S = 180.0
# No token for so long, and yet the core computes: a prompt of 100,000 tokens on a small machine, or a compiler.
BUSY_AFTER_S = 900.0
FAILING_AFTER_S = 60.0
# Fewer failures in a row may be one caller's.
FAILURES = 3
LOOK_S = 3.0  # longest wait for one answer
# A core that waits for work takes less of a processor than this (measured: under 0.01), one that computes far more.
COMPUTING_SHARE = 0.05
# Whoever has not looked for longer was stopped too (a paused container): that time counts for nothing.
LONGEST_GAP_S = 30.0


@dataclass(frozen=True)
class Core:
    """The processes below vLLM's main one, which compute: whether one is stopped, and the seconds of CPU they took."""

    stopped: bool = False
    cpu: float | None = None


@dataclass(frozen=True)
class Sight:
    """What one look showed; None is unknown.

    `running` are requests that the core has reported, `unanswered` those without a byte of an answer; `served` and
    `failed` count requests that have ended, the latter in 5xx.
    """

    healthy: bool
    tokens: float | None = None
    running: float | None = None
    unanswered: float | None = None
    served: float | None = None
    failed: float | None = None
    core: Core = Core()


def look(engine: Engine, key: str | None = None) -> Sight:
    """Look at a running vLLM. Takes at most a few seconds, and never fails."""
    core = look_at_core(engine.pid)
    health = engine.probe.get("/health", timeout=LOOK_S)
    if health is None or health.status != HTTPStatus.OK:
        return Sight(healthy=False, core=core)
    answer = engine.probe.get("/metrics", key=key, timeout=LOOK_S)
    text = answer.body.decode("utf-8", "replace") if answer is not None and answer.status == HTTPStatus.OK else ""
    return read_sight(text, core)


def read_sight(text: str, core: Core = Core()) -> Sight:
    """Return what the answer of /metrics shows."""
    try:
        sample = metrics.read_sample(text)
    except ValueError:
        return Sight(healthy=True, core=core)
    tokens = [sample.get(name) for name in (metrics.PROMPT_TOKENS, metrics.GENERATED_TOKENS)]
    known = [value for value in tokens if value is not None]
    return Sight(
        healthy=True,
        tokens=sum(known) if known else None,
        running=sample.get(metrics.RUNNING),
        unanswered=sample.get(metrics.UNANSWERED),
        served=sample.answers.get("2xx", 0.0) if sample.answers else None,
        failed=sample.answers.get("5xx", 0.0) if sample.answers else None,
        core=core,
    )


def look_at_core(pid: int | None) -> Core:
    """Look at the processes below vLLM's main one, `pid`."""
    stopped, cpu = False, None
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return Core()
    for child in children:
        try:
            times = child.cpu_times()
            stopped |= child.status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
        except psutil.Error:
            continue
        cpu = (cpu or 0.0) + times.user + times.system
    return Core(stopped, cpu)


class Watchdog:
    """Judge what is seen, look after look. Times are seconds of one clock."""

    def __init__(self, now: float, *, stalled_after: float = STALLED_AFTER_S) -> None:
        self._stalled_after = stalled_after
        self._silent_after = min(SILENT_AFTER_S, stalled_after)
        self._busy_after = max(BUSY_AFTER_S, stalled_after)
        self._looked = now
        self._heard = now
        self._moved = now  # a token came, or nobody waited for one
        self._computed = now  # that, or the core took CPU time
        self._tokens: float | None = None
        self._cpu: tuple[float, float | None] = (now, None)  # when, and how much by then
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
        self._forgive(now)
        if sight.healthy:
            self._heard = now
        elif now - self._heard > self._silent_after:
            return f"vLLM is running and has not answered /health for {now - self._heard:.0f} s"
        return self._judge_progress(sight, now, in_hand) or self._judge_answers(sight, now)

    def _forgive(self, now: float) -> None:
        gap = now - self._looked - LONGEST_GAP_S
        self._looked = now
        if gap > 0:
            self._heard, self._moved, self._computed = self._heard + gap, self._moved + gap, self._computed + gap

    def _judge_progress(self, sight: Sight, now: float, in_hand: int) -> str | None:
        waiting = max(in_hand, sight.running or 0, sight.unanswered or 0)
        moved = sight.tokens != self._tokens
        self._tokens = sight.tokens
        if not sight.core.stopped and (moved or not waiting or sight.tokens is None):
            self._moved = self._computed = now
        if self._computes(sight.core, now):
            self._computed = now
        what = "its engine core is stopped" if sight.core.stopped else f"requests wait for it: {waiting:.0f}"
        if now - self._computed > self._stalled_after:
            return f"vLLM has computed no token for {now - self._moved:.0f} s, and {what}"
        if now - self._moved > self._busy_after:
            return f"vLLM has been busy for {now - self._moved:.0f} s without a token, and {what}"
        return None

    def _computes(self, core: Core, now: float) -> bool:
        """Whether the core has taken CPU time since the last look that could tell."""
        (at, before), self._cpu = self._cpu, (now, core.cpu)
        if core.stopped or core.cpu is None or before is None:
            return False
        return core.cpu - before > COMPUTING_SHARE * (now - at)

    def _judge_answers(self, sight: Sight, now: float) -> str | None:
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


def wait_for_hang(engine: Engine, key: str | None, *, stalled_after: float) -> str | None:
    """Watch a vLLM that is ready; return why it is of no use any more, or None when it has ended by itself."""
    watchdog = Watchdog(time.monotonic(), stalled_after=stalled_after)
    while engine.wait(EVERY_S) is None:
        reason = watchdog.judge(look(engine, key), time.monotonic())
        if reason is not None and engine.poll() is None:
            return reason
    return None
