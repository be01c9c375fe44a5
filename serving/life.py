"""The life of a served vLLM as a state machine, without a clock, a process or a thread: `step` says what follows.

    state        what is so                            what ends it
    STARTING     vLLM loads                            it answers: READY · it ends: RESTARTING, or FAILED the first
                                                       time · it takes too long: it is killed, ENDING
    READY        vLLM serves                           it ends: RESTARTING · it hangs: it is killed, ENDING
    ENDING       vLLM is killed, and not yet gone      it ends: RESTARTING, or FAILED · it cannot be killed: FAILED
    RESTARTING   there is no vLLM                      the delay is over: STARTING
    DRAINING     somebody wants it to stop: vLLM may   it ends: STOPPED · the time is over, or somebody wants it once
                 finish what runs                      more: it is killed · it cannot be killed: FAILED
    STOPPED      the end that was wanted
    FAILED       the end that was not; `failure`

From STARTING, READY and ENDING a wish to stop leads to DRAINING, from RESTARTING to STOPPED. Each start of vLLM has a
number, and what is heard of another one than the latest means nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from serving.engine.process import EXIT_MARGIN_S, late
from serving.errors import EngineFailed, ServingError

MAX_RESTARTS = 5
# A vLLM that served for this long had started well: its end is a new story, not one more of a series.
STEADY_S = 300.0
# A vLLM that is still loading has nobody to drain for.
LOADING_GRACE_S = 5.0
# For a killed vLLM to be gone: the kernel may have a great deal of memory to take back.
KILLED_S = 60.0


class State(Enum):
    """What is so; see the table above."""

    STARTING = "starting"
    READY = "ready"
    ENDING = "ending"
    RESTARTING = "restarting"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True)
class Life:
    """Where a life stands. Times are seconds of one clock; `deadline` is when `Expired` is due, None: never."""

    state: State
    start: int = 1
    deadline: float | None = None
    ready_at: float | None = None  # of this start
    restarts: int = 0  # in a row
    killed: bool = False
    verdict: str | None = None  # why it was killed, if not by wish
    failure: ServingError | None = None


@dataclass(frozen=True)
class Limits:
    """How long a start and a drain may take, in seconds."""

    startup: float
    drain: float


@dataclass(frozen=True)
class Signalled:
    """Event: somebody wants it to stop."""


@dataclass(frozen=True)
class Expired:
    """Event: the deadline has passed."""


@dataclass(frozen=True)
class Answers:
    """Event: vLLM answers. `said` is where and what, for a person; `note` is what else is worth saying."""

    start: int
    said: str = ""
    note: str | None = None


@dataclass(frozen=True)
class Hangs:
    """Event: vLLM runs and does nothing; `reason` is a sentence without its full stop."""

    start: int
    reason: str


@dataclass(frozen=True)
class Ended:
    """Event: nothing of vLLM is left, or it could not even be started."""

    start: int
    failure: ServingError


Event = Signalled | Expired | Answers | Hangs | Ended


@dataclass(frozen=True)
class Start:
    """Action: start vLLM."""

    number: int


@dataclass(frozen=True)
class Announce:
    """Action: say that vLLM is ready, and what it answers."""

    answers: Answers


@dataclass(frozen=True)
class Drain:
    """Action: have vLLM end after what runs; `seconds` is what running requests get, None if none can run."""

    seconds: float | None


@dataclass(frozen=True)
class Kill:
    """Action: kill vLLM, and say why if there is something to say."""

    reason: str | None = None


@dataclass(frozen=True)
class Retry:
    """Action: say that vLLM has ended, why, and when the next one starts."""

    failure: ServingError
    delay: float
    restarts: int


Action = Start | Announce | Drain | Kill | Retry


def begin(now: float, limits: Limits) -> tuple[Life, tuple[Action, ...]]:
    """Return the beginning of a life, and what is to be done for it."""
    return _start(Life(State.STARTING, start=0), now, limits)


def step(life: Life, event: Event, now: float, limits: Limits) -> tuple[Life, tuple[Action, ...]]:
    """Return where a life stands after an event, and what is to be done."""
    if isinstance(event, Answers | Hangs | Ended) and event.start != life.start:
        return life, ()
    match life.state, event:
        case State.STARTING, Answers():
            return replace(life, state=State.READY, deadline=None, ready_at=now), (Announce(event),)
        case State.STARTING, Expired():
            return _end(life, now, late(limits.startup), None)
        case State.READY, Hangs(reason=reason):
            return _end(life, now, f"It hung: {reason}.", f"vLLM hangs, and is ended: {reason}.")
        case ((State.STARTING | State.READY | State.ENDING), Ended(failure=failure)):
            return _after_end(life, failure, now)
        case State.RESTARTING, Expired():
            return _start(life, now, limits)
        case State.STARTING, Signalled():
            return replace(life, state=State.DRAINING, deadline=now + LOADING_GRACE_S), (Drain(None),)
        case State.READY, Signalled():
            deadline = now + limits.drain + EXIT_MARGIN_S
            return replace(life, state=State.DRAINING, deadline=deadline), (Drain(limits.drain),)
        case State.ENDING, Signalled():
            return replace(life, state=State.DRAINING), ()
        case State.RESTARTING, Signalled():
            return replace(life, state=State.STOPPED, deadline=None), ()
        case State.DRAINING, Ended():
            return replace(life, state=State.STOPPED, deadline=None), ()
        case State.DRAINING, (Signalled() | Expired()) if not life.killed:
            return replace(life, killed=True, deadline=now + KILLED_S), (Kill(),)
        case ((State.DRAINING | State.ENDING), Expired()):
            return _fail(life, EngineFailed(_UNKILLABLE))
    return life, ()


_UNKILLABLE = (
    f"vLLM was killed and is still there after {KILLED_S:.0f} s: the system holds it, mostly in the GPU's driver "
    "(`dmesg` tells). A restart of the machine helps."
)


def _start(life: Life, now: float, limits: Limits) -> tuple[Life, tuple[Action, ...]]:
    number = life.start + 1
    following = Life(State.STARTING, number, deadline=now + limits.startup, restarts=life.restarts)
    return following, (Start(number),)


def _end(life: Life, now: float, verdict: str, said: str | None) -> tuple[Life, tuple[Action, ...]]:
    ending = replace(life, state=State.ENDING, deadline=now + KILLED_S, killed=True, verdict=verdict)
    return ending, (Kill(said),)


def _after_end(life: Life, failure: ServingError, now: float) -> tuple[Life, tuple[Action, ...]]:
    if life.verdict is not None:
        failure = EngineFailed(life.verdict, _tail(failure))
    restarts = life.restarts
    if life.ready_at is None and restarts == 0:
        return _fail(life, failure)  # it has never worked: trying again would only hide why
    if life.ready_at is not None and now - life.ready_at > STEADY_S:
        restarts = 0
    if restarts == MAX_RESTARTS:
        return _fail(life, EngineFailed(f"vLLM died {restarts + 1} times: given up. {failure}", _tail(failure)))
    delay = 2.0**restarts
    restarting = replace(life, state=State.RESTARTING, deadline=now + delay, restarts=restarts + 1)
    return restarting, (Retry(failure, delay, restarts + 1),)


def _fail(life: Life, failure: ServingError) -> tuple[Life, tuple[Action, ...]]:
    return replace(life, state=State.FAILED, deadline=None, failure=failure), ()


def _tail(failure: ServingError) -> tuple[str, ...]:
    return failure.tail if isinstance(failure, EngineFailed) else ()
