"""A vLLM that is there and does nothing: told from one that is idle, and from one that is at a long piece of work.

vLLM's `/health` is answered by its API process, and goes on saying 200 while the engine core, which computes, hangs. So
two things are watched: whether `/health` is answered, and whether the core gets on while requests run. It gets on if
anything moves that vLLM counts (tokens, requests, the share of the KV cache in use), or if its processes compute: in a
long prefill no counter moves for as long as one step takes, which takes the processor all the while.

`Watchdog` decides, without a clock, a thread or a socket of its own; `Sampler` looks, and blocks for some seconds at
worst. From a thread:

    watchdog, sampler = Watchdog(stalled_after=180), Sampler(engine.probe, key, engine.pid)
    while (reason := watchdog.see(time.monotonic(), sampler.look())) is None:
        time.sleep(watchdog.interval)

In asyncio the same with `await asyncio.to_thread(sampler.look, in_flight)` and `asyncio.sleep`. Begin when vLLM has
become ready; a new vLLM wants a new `Watchdog`. `reason` is a sentence without its full stop.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from serving.engine.metrics import read_sample

if TYPE_CHECKING:
    from collections.abc import Mapping

    from serving.engine.probe import Probe

SILENT_S = 60.0  # at most: an API process that computes nothing has no excuse
STALLED_S = 180.0
# Where the core computes and nothing that is counted moves, it is waited for so many times as long.
PATIENCE = 5
IDLE_SHARE = 0.05  # of one processor: helper threads of a process whose work stands still
LONGEST_STEP_S = 30.0  # of time between two looks; what is more was not vLLM's doing (this process was stopped)
INTERVAL_S = 5.0
CORES = ("EngineCore", "Worker")  # what vLLM calls the processes that compute


@dataclass(frozen=True)
class Look:
    """One look at a running vLLM. None is what could not be seen: it says neither yes nor no.

    `status` is that of /health, None if nothing came. `progress` is all that moves while vLLM works. `busy` counts the
    requests that run or wait. `cpu_s` is what the core's processes have computed, in seconds since they began;
    `stopped`: one of them is suspended (SIGSTOP, a debugger).
    """

    status: int | None
    progress: Mapping[str, float] | None = None
    busy: float | None = None
    cpu_s: float | None = None
    stopped: bool = False


class Watchdog:
    """Say when a vLLM hangs.

    `stalled_after` is how long, in seconds, a core may stand still while requests run; 0 watches nothing. An API
    process may be silent for `silent_after`, at most as long as `stalled_after`.
    """

    def __init__(self, *, stalled_after: float = STALLED_S, silent_after: float = SILENT_S) -> None:
        self._stalled_after = stalled_after
        self._silent_after = min(silent_after, stalled_after)
        self._last: float | None = None
        self._known: Look | None = None  # the last look that saw progress
        self._unseen = 0.0  # seconds since then
        self._was_silent = self._was_stopped = False
        self._silent = self._stopped = self._still = self._fruitless = 0.0

    @property
    def interval(self) -> float:
        """Seconds to wait between two looks."""
        return min(INTERVAL_S, max(0.1, self._silent_after / 10))

    def see(self, now: float, look: Look) -> str | None:
        """Take a look, made at `now` (seconds, of a monotonic clock); return why vLLM hangs, None if it does not."""
        passed = 0.0 if self._last is None else min(max(0.0, now - self._last), LONGEST_STEP_S)
        self._last = now
        silent = look.status != 200
        self._silent = self._silent + passed if silent and self._was_silent else 0.0
        self._stopped = self._stopped + passed if look.stopped and self._was_stopped else 0.0
        self._was_silent, self._was_stopped = silent, look.stopped
        self._unseen += passed
        if look.progress is not None and look.busy is not None:
            self._compare(look)
        return self._verdict(look) if self._stalled_after > 0 else None

    def _compare(self, look: Look) -> None:
        before, self._known = self._known, look
        passed, self._unseen = self._unseen, 0.0
        if before is None or not look.busy or not before.busy or look.progress != before.progress:
            self._still = self._fruitless = 0.0
            return
        self._fruitless += passed
        computed = None if look.cpu_s is None or before.cpu_s is None else look.cpu_s - before.cpu_s
        # Processes that have ended take their time along, so it may shrink; that is no standing still.
        stands = computed is not None and 0 <= computed <= IDLE_SHARE * passed
        self._still = self._still + passed if stands else 0.0

    def _verdict(self, look: Look) -> str | None:
        if self._silent >= self._silent_after:
            said = "does not answer" if look.status is None else f"answers /health with {look.status}"
            return f"its API process {said}, for {self._silent:.0f} s now"
        if self._stopped >= self._stalled_after:
            return f"a process of its engine core has been suspended for {self._stopped:.0f} s"
        if self._still >= self._stalled_after:
            return f"its engine core stands still: for {self._still:.0f} s requests run, and nothing is computed"
        if self._fruitless >= PATIENCE * self._stalled_after:
            return f"its engine core gets nowhere: for {self._fruitless:.0f} s requests run, and no token has come"
        return None


class Sampler:
    """Look at one vLLM: its /health and /metrics through `probe`, and its processes from `pid` down."""

    def __init__(self, probe: Probe, key: str | None, pid: int) -> None:
        self._probe = probe
        self._key = key
        self._pid = pid

    def look(self, in_flight: int | None = None) -> Look:
        """Return a look. `in_flight`: how many requests the caller has under way there, if it knows.

        vLLM itself learns of a request from its core, so one that came after the core hung is in no counter.
        """
        health = self._probe.get("/health")
        answer = self._probe.get("/metrics", key=self._key) if health is not None else None
        progress, busy = None, None
        if answer is not None and answer.status == 200:
            try:
                sample = read_sample(answer.body.decode("utf-8", "replace"))
            except ValueError:  # none of vLLM's
                sample = None
            if sample is not None and sample.numbers:
                progress, busy = sample.numbers, sample.busy
        if in_flight:
            busy = max(in_flight, busy or 0)
        cpu_s, stopped = self._processes()
        return Look(None if health is None else health.status, progress, busy, cpu_s, stopped)

    def _processes(self) -> tuple[float | None, bool]:
        """Return what the core's processes have computed, and whether one of them is suspended."""
        cores: dict[int, psutil.Process] = {}
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self._pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if any(name in " ".join(process.cmdline()[:1]) for name in CORES):
                        # What it has started (compilers) works for it.
                        cores |= {each.pid: each for each in (process, *process.children(recursive=True))}
        computed, stopped = [], False
        for process in cores.values():
            with contextlib.suppress(psutil.Error), process.oneshot():
                times = process.cpu_times()
                stopped = stopped or process.status() == psutil.STATUS_STOPPED
                computed.append(times.user + times.system)
        return (sum(computed) if computed else None), stopped
