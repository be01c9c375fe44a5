"""What may happen to a served vLLM, in any order, and what must hold whatever happens."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import life
from serving.engine.process import EXIT_MARGIN_S
from serving.errors import EngineFailed, Refused
from serving.life import (
    KILLED_S,
    LOADING_GRACE_S,
    MAX_RESTARTS,
    STEADY_S,
    Announce,
    Answers,
    Drain,
    Ended,
    Expired,
    Hangs,
    Kill,
    Limits,
    Retry,
    Signalled,
    Start,
    State,
)

LIMITS = Limits(startup=100.0, drain=30.0)
OVER = (State.STOPPED, State.FAILED)


@dataclass
class World:
    """A supervisor's loop with a clock of its own and engines that do what a test says. Checks itself at each step."""

    now: float = 0
    running: int | None = None  # the number of the vLLM that is there
    engines: int = 0
    announced: list[int] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    actions: list[life.Action] = field(default_factory=list)

    def __post_init__(self):
        self.life, actions = life.begin(self.now, LIMITS)
        self._take(actions)

    def happen(self, event):
        if isinstance(event, Ended) and event.start == self.running:
            self.running = None
        before = self.life
        self.life, actions = life.step(self.life, event, self.now, LIMITS)
        if before.state in OVER:
            assert self.life == before
        if before.state is State.DRAINING:
            assert self.life.state in (State.DRAINING, *OVER)
        self._take(actions)

    def wait(self, seconds):
        """Let time pass, as the loop does: the deadline is an event."""
        until = self.now + seconds
        while self.life.deadline is not None and self.life.deadline <= until:
            self.now = max(self.now, self.life.deadline)
            self.happen(Expired())
        self.now = until

    def _take(self, actions):
        self.actions += actions
        for action in actions:
            match action:
                case Start(number=number):
                    assert self.running is None, "two at once"
                    self.engines += 1
                    self.running = number
                    assert number == self.engines
                case Announce(answers=answers):
                    assert answers.start == self.running
                    self.announced.append(answers.start)
                case Kill() | Drain():
                    assert self.life.state in (State.ENDING, State.DRAINING)
                case Retry(delay=delay):
                    assert self.running is None
                    self.delays.append(delay)
        assert (self.life.deadline is not None) == (self.life.state not in (State.READY, *OVER))


EVENTS = st.one_of(
    st.sampled_from(["signal", "answers", "hangs", "ends", "refused"]),
    st.tuples(st.just("stale"), st.integers(1, 8)),
    st.integers(0, 400).map(lambda seconds: ("wait", seconds)),
)


def play(world, happening):
    start = world.life.start
    match happening:
        case "signal":
            world.happen(Signalled())
        case "answers" if world.running:
            world.happen(Answers(start))
        case "hangs" if world.running:
            world.happen(Hangs(start, "it does nothing"))
        case "ends" if world.running:
            world.happen(Ended(start, EngineFailed("vLLM ended.", ("tail",))))
        case "refused" if world.running and world.life.state is State.STARTING:
            world.happen(Ended(start, Refused("Port 8000 is taken.")))
        case ("stale", back):
            before = world.life
            for event in (Answers(start - back), Hangs(start - back, "x"), Ended(start - back, EngineFailed("x"))):
                world.happen(event)
            assert world.life == before
        case ("wait", seconds):
            world.wait(seconds)


@settings(max_examples=200)
@given(st.lists(EVENTS, max_size=60))
def test_whatever_happens_there_is_one_vllm_at_a_time_each_is_announced_once_and_the_wait_is_bounded(happenings):
    world = World()
    for happening in happenings:
        play(world, happening)
    assert len(world.announced) == len(set(world.announced))
    assert all(1 <= delay <= 2 ** (MAX_RESTARTS - 1) for delay in world.delays)
    assert world.life.restarts <= MAX_RESTARTS
    # Whatever it has come to, a stop ends, and within bounds, whether vLLM obeys or nothing ever comes of it.
    world.happen(Signalled())
    began = world.now
    while world.life.state not in OVER:
        assert world.life.deadline is not None
        world.wait(world.life.deadline - world.now)
    assert world.now - began <= max(LIMITS.drain + EXIT_MARGIN_S, LOADING_GRACE_S) + KILLED_S
    if world.life.state is State.FAILED:
        assert world.life.failure is not None


@settings(max_examples=100)
@given(st.lists(EVENTS, max_size=30))
def test_after_a_wish_to_stop_nothing_is_started_and_an_end_of_vllm_is_the_end(happenings):
    world = World()
    for happening in happenings:
        play(world, happening)
    world.happen(Signalled())
    started = world.engines
    for happening in happenings:
        play(world, happening)
    if world.running:
        world.happen(Ended(world.life.start, EngineFailed("x")))
    assert world.engines == started
    assert world.life.state in OVER


@given(st.integers(2, 5), st.integers(0, 300))
def test_asking_again_kills_at_once_and_once(times, later):
    world = World()
    world.happen(Answers(1))
    for _ in range(times):
        world.happen(Signalled())
    assert [type(action) for action in world.actions].count(Kill) == 1
    world.wait(min(later, KILLED_S - 1))
    assert world.life.state is State.DRAINING


def test_a_vllm_that_has_never_worked_is_not_tried_again():
    world = World()
    failure = EngineFailed("vLLM knows no --nonsense.")
    world.happen(Ended(1, failure))
    assert world.life.failure is failure


def test_one_that_starts_too_slowly_is_killed_and_that_is_the_reason():
    world = World()
    world.wait(LIMITS.startup + 1)
    assert world.life.state is State.ENDING
    world.happen(Ended(1, EngineFailed("vLLM was killed (SIGKILL).", ("its last line",))))
    assert "SERVE_STARTUP_TIMEOUT=100 s" in str(world.life.failure)
    assert world.life.failure.tail == ("its last line",)


def test_a_hang_is_the_reason_of_the_restart():
    world = World()
    world.happen(Answers(1))
    world.happen(Hangs(1, "it has not answered /health for 61 s"))
    assert world.actions[-1] == Kill("vLLM hangs, and is ended: it has not answered /health for 61 s.")
    world.happen(Ended(1, EngineFailed("vLLM was killed (SIGKILL).")))
    assert isinstance(world.actions[-1], Retry)
    assert str(world.actions[-1].failure) == "It hung: it has not answered /health for 61 s."
    world.wait(1)
    assert world.life.state is State.STARTING
    assert world.engines == 2


@pytest.mark.parametrize(("served", "starts"), [(STEADY_S - 1, 1 + MAX_RESTARTS), (STEADY_S + 1, 50)])
def test_it_is_given_up_after_a_row_of_short_lives_and_long_ones_are_no_row(served, starts):
    world = World()
    for _ in range(49):
        if world.life.state is State.FAILED:
            break
        world.happen(Answers(world.life.start))
        world.wait(served)
        world.happen(Ended(world.life.start, EngineFailed("vLLM died of something.")))
        world.wait(60)
    assert world.engines == starts
    assert (world.life.state is State.FAILED) == (starts == 1 + MAX_RESTARTS)
    if world.life.failure:
        assert str(world.life.failure) == f"vLLM died {starts} times: given up. vLLM died of something."
        assert world.delays == [1, 2, 4, 8, 16]


def test_a_restart_that_finds_the_port_taken_is_one_more_try():
    world = World()
    world.happen(Answers(1))
    world.happen(Ended(1, EngineFailed("x")))
    world.wait(1)
    world.happen(Ended(2, Refused("Port 8000 is taken.")))
    assert world.life.state is State.RESTARTING
    assert isinstance(world.actions[-1], Retry)
    assert str(world.actions[-1].failure) == "Port 8000 is taken."


def test_what_cannot_be_killed_ends_it_all():
    world = World()
    world.happen(Answers(1))
    world.happen(Hangs(1, "x"))
    world.wait(KILLED_S)
    assert "still there" in str(world.life.failure)
