"""Keep vLLM up: start it, say when it is ready, start it again when it dies or hangs, drain it when told to stop.

What follows from what is decided in `serving.life`, event by event, in one loop in the main thread. Whatever happens
comes in through one queue: signals from their handler, and from one thread for each vLLM that it answers, hangs, or has
ended. That thread watches and reports; it decides nothing, and shares nothing with the loop but the queue.
"""

from __future__ import annotations

import queue
import signal
import threading
import time
from typing import TYPE_CHECKING

from serving import life
from serving.announcement import announcement
from serving.engine.download import report_download
from serving.engine.process import Engine
from serving.engine.silence import explain_silence
from serving.engine.vllm_log import compare_with_log, tells_capacity
from serving.engine.watchdog import wait_for_hang
from serving.errors import EngineFailed, ServingError
from serving.life import Announce, Answers, Drain, Ended, Expired, Hangs, Kill, Life, Retry, Signalled, Start, State

if TYPE_CHECKING:
    from serving.engine.progress import Progress
    from serving.launch import Launch

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Supervisor:
    """Run vLLM as `launch` says until a signal ends it.

    SIGTERM, SIGINT and SIGHUP drain; a second one kills. `run` must be called in the main thread.
    """

    def __init__(self, launch: Launch, progress: Progress) -> None:
        self._launch = launch
        self._progress = progress
        self._events: queue.SimpleQueue[life.Event] = queue.SimpleQueue()
        self._engine: Engine | None = None

    def run(self) -> int:
        """Serve until told to stop, and return 0.

        Raises Refused if vLLM cannot even be tried, EngineFailed if it does not start or has died too often.
        """
        settings = self._launch.settings
        limits = life.Limits(settings.startup_timeout, settings.shutdown_timeout)
        # A handler may run inside any call of the main thread, `get` included: `SimpleQueue.put` is made for that.
        before = {number: signal.signal(number, lambda *_: self._events.put(Signalled())) for number in STOP_SIGNALS}
        try:
            now, actions = life.begin(time.monotonic(), limits)
            while True:
                for action in actions:
                    self._do(action)
                if now.state is State.STOPPED:
                    self._progress.say("Stopped.")
                    return 0
                if now.failure is not None:
                    raise now.failure
                now, actions = life.step(now, self._next_event(now), time.monotonic(), limits)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            if self._engine is not None:
                self._engine.kill()  # there is none any more, unless the loop itself has failed

    def _next_event(self, now: Life) -> life.Event:
        try:
            left = None if now.deadline is None else max(0.0, now.deadline - time.monotonic())
            return self._events.get(timeout=left)
        except queue.Empty:
            return Expired()

    def _do(self, action: life.Action) -> None:
        match action:
            case Start(number=number):
                self._start(number)
            case Announce(answers=answers):
                self._progress.announce(f"Ready after {self._progress.end():.1f} s: {answers.said}")
                if answers.note:
                    self._progress.say(answers.note)
            case Drain(seconds=seconds):
                self._drain(seconds)
            case Kill(reason=reason):
                if reason is not None:
                    self._progress.say(reason)
                assert self._engine is not None
                self._engine.kill()
            case Retry(failure=failure, delay=delay, restarts=restarts):
                self._progress.end()
                tail = failure.tail if isinstance(failure, EngineFailed) else ()
                self._progress.say("\n".join((*tail, f"vLLM died. {failure}")))
                self._progress.say(f"Starting it again in {delay:.0f} s ({restarts} of {life.MAX_RESTARTS}).")

    def _start(self, number: int) -> None:
        capacity: list[str] = []

        def on_line(line: str) -> None:
            self._progress.line(line)
            if tells_capacity(line):
                capacity.append(line)

        self._engine = engine = Engine(self._launch.command, on_line=on_line)
        self._progress.begin(self._launch.processes)
        try:
            engine.start()
        except ServingError as error:
            self._events.put(Ended(number, error))
            return
        threading.Thread(
            target=self._watch, args=(number, engine, capacity), name=f"vllm-watch-{number}", daemon=True
        ).start()

    def _drain(self, seconds: float | None) -> None:
        assert self._engine is not None
        self._progress.stop_showing_errors()
        self._engine.terminate()
        if seconds is not None:
            self._progress.say(f"Stopping: running requests have {seconds:.0f} s to finish; once more stops at once.")

    def _watch(self, number: int, engine: Engine, capacity: list[str]) -> None:
        """Report of one vLLM, in a thread of its own, until it has ended."""
        settings = self._launch.settings
        key = settings.api_key.get_secret_value() if settings.api_key else None
        try:
            with (
                report_download(self._launch.download, self._progress.detail),
                explain_silence(engine, self._progress.say, gpus=len(self._launch.plan.gpus)),
            ):
                answers = engine.wait_answer()
            if answers:
                said = announcement(self._launch, engine.probe, key)
                self._events.put(Answers(number, said, compare_with_log(self._launch.plan, capacity)))
                if reason := wait_for_hang(engine, key, stalled_after=settings.stall_timeout):
                    self._events.put(Hangs(number, reason))
        finally:
            engine.wait()
            self._events.put(Ended(number, engine.failure()))
