"""The watchdog on simulated lives of vLLM: what works is never taken for a hang, what hangs is found in time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.engine.watchdog import LONGEST_STEP_S, PATIENCE, Look, Watchdog

STALLED_S, SILENT_S = 180.0, 60.0


@dataclass
class Life:
    """A vLLM that does what it is told for a while, and a watchdog that looks at it every few seconds."""

    watchdog: Watchdog
    now: float = 1000.0
    tokens: float = 0.0
    cpu_s: float = 0.0

    def spend(self, doing: str, seconds: float, step: float) -> str | None:
        """Do something for so long; return what the watchdog says, at the moment when it does."""
        end = self.now + seconds
        while self.now < end:
            self.now += step
            moves, cpu, busy = KINDS[doing]
            self.tokens += 7 * step if moves else 0
            self.cpu_s += cpu * step
            look = Look(200, {"tokens": self.tokens}, busy, self.cpu_s)
            reason = self.watchdog.see(self.now, SEEN.get(doing, lambda look: look)(look))
            if reason is not None:
                return reason
        return None


# Whether a counter moves, the processors that the core's processes take, the requests that run or wait.
KINDS = {
    "idles": (False, 0.01, 0.0),
    "decodes": (True, 0.9, 3.0),
    "prefills": (False, 0.3, 1.0),
    "decodes, its metrics unseen": (True, 0.9, 3.0),
    "decodes, without its counters": (True, 0.9, 3.0),
    "decodes, its processes unseen": (True, 0.9, 3.0),
    "prefills, its processes unseen": (False, 0.3, 1.0),
    "idles, its processes unseen": (False, 0.0, 0.0),
    "hangs: still": (False, 0.0, 2.0),
    "hangs: still, but for helpers": (False, 0.02, 2.0),
    "hangs: suspended, with requests": (False, 0.0, 2.0),
    "hangs: suspended, without": (False, 0.0, 0.0),
    "hangs: silent": (False, 0.0, 2.0),
    "hangs: sick": (False, 0.0, 2.0),
    "hangs: spins": (False, 1.0, 2.0),
    "hangs: spins, its processes unseen": (False, 1.0, 2.0),
}
SEEN = {
    "decodes, its metrics unseen": lambda look: replace(look, progress=None, busy=None),
    "decodes, without its counters": lambda look: replace(look, progress={}, busy=None),
    "decodes, its processes unseen": lambda look: replace(look, cpu_s=None),
    "prefills, its processes unseen": lambda look: replace(look, cpu_s=None),
    "idles, its processes unseen": lambda look: replace(look, cpu_s=None),
    "hangs: suspended, with requests": lambda look: replace(look, stopped=True),
    "hangs: suspended, without": lambda look: replace(look, stopped=True),
    "hangs: silent": lambda look: Look(None, cpu_s=look.cpu_s),
    "hangs: sick": lambda look: replace(look, status=503),
    "hangs: spins, its processes unseen": lambda look: replace(look, cpu_s=None),
}
WORKS = [kind for kind in KINDS if not kind.startswith("hangs")]
HANGS = [kind for kind in KINDS if kind.startswith("hangs")]
BOUNDS = {
    "hangs: silent": SILENT_S,
    "hangs: sick": SILENT_S,
    "hangs: spins": PATIENCE * STALLED_S,
    "hangs: spins, its processes unseen": PATIENCE * STALLED_S,
}
WORDS = {
    "hangs: silent": "does not answer",
    "hangs: sick": "answers /health with 503",
    "hangs: suspended, without": "suspended",
    "hangs: spins": "gets nowhere",
    "hangs: spins, its processes unseen": "gets nowhere",
}

# Prefills and pauses of up to ten minutes; each life goes on after them.
works = st.lists(st.tuples(st.sampled_from(WORKS), st.floats(0, 600)), max_size=8)


@settings(max_examples=100, deadline=None)
@given(works, st.sampled_from(HANGS), st.floats(1, 15))
def test_work_is_left_alone_and_a_hang_is_found_in_time(before, hang, step):
    life = Life(Watchdog(stalled_after=STALLED_S, silent_after=SILENT_S))
    prefilled = 0.0
    for doing, seconds in before:
        prefilled = prefilled + seconds if doing.startswith("prefills") else 0.0
        if prefilled > PATIENCE * STALLED_S - 60:
            return  # a prefill of a quarter of an hour is more than is waited for
        assert life.spend(doing, seconds, step) is None, doing
    begin, bound = life.now, BOUNDS.get(hang, STALLED_S)
    reason = life.spend(hang, 2 * bound, step)
    assert reason is not None
    assert WORDS.get(hang, "stands still") in reason
    # Time in which it did the same before may count; two looks may be missed.
    assert life.now - begin <= bound + 3 * step
    if hang not in ("hangs: spins", "hangs: spins, its processes unseen") and not before:
        assert life.now - begin >= bound


@given(st.floats(LONGEST_STEP_S, 100_000), st.sampled_from(HANGS))
def test_a_watchdog_that_was_itself_suspended_starts_no_alarm(pause, hang):
    life = Life(Watchdog(stalled_after=STALLED_S, silent_after=SILENT_S))
    assert life.spend(hang, 10, 5) is None
    life.now += pause
    assert life.spend(hang, 1, 1) is None


def test_a_look_that_fails_now_and_then_does_not_hide_a_hang():
    life = Life(Watchdog(stalled_after=STALLED_S))
    reasons = []
    while not any(reasons) and life.now < 2000:
        reasons.append(life.spend("hangs: still", 5, 5))
        reasons.append(life.watchdog.see(life.now + 1, Look(200)))
    assert any(reasons)
    assert life.now < 1000 + STALLED_S + 30


def test_a_request_that_came_after_the_core_hung_is_known_to_who_has_sent_it():
    """The gauges say 0 for ever then: vLLM's API process learns of requests from its core."""
    watchdog = Watchdog(stalled_after=STALLED_S)
    looks = (watchdog.see(now, Look(200, {"tokens": 5}, 1.0, 3.0)) for now in range(0, 400, 5))
    assert any("stands still" in (reason or "") for reason in looks)


@pytest.mark.parametrize("hang", HANGS)
def test_zero_watches_nothing(hang):
    assert Life(Watchdog(stalled_after=0)).spend(hang, 10_000, 5) is None


def test_a_short_bound_is_looked_at_often_enough():
    assert Watchdog(stalled_after=2).interval == pytest.approx(0.2)
    assert Watchdog().interval == 5.0
