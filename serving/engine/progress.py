"""What a person sees of vLLM's start and life: phases with elapsed time, and the chosen lines of its log."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from serving.engine.diagnosis import FailureReader
from serving.engine.log_file import LogFile

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Progress as Live
    from rich.progress import TaskID

# vLLM starts its processes one after the other, each imports the same for seconds, and begins to log when it has.
# Its own lines (0.32; the CPU and the CUDA runner) tell where it is, and it goes one way through them.
_PROCESS_BEGUN = (re.compile(r"^\(APIServer\b"), re.compile(r"^\(EngineCore"))
_LOADING = re.compile(r"Starting to load model")
_COMPILING = re.compile(r"Loading weights took|Model loading took|Dynamo bytecode transform|Capturing CUDA graphs")
_LEVEL = re.compile(r"^(?:\([^)]*\)\s+)?(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b")
DETAIL_S = 30.0
_RANKS = {"DEBUG": 0, "INFO": 1, "WARNING": 2, "ERROR": 3, "CRITICAL": 3}


class Progress:
    """Show phases: one live line on a terminal, else a plain line each; pass vLLM's log on from `level` up.

    All but `announce` goes to standard error. All of the log goes to `log_file`, if there is one. A reader of ours that
    goes away, or a disk that is full, costs what it would have got and nothing else. Safe to use from any thread. Use
    it as a context manager. Raises ConfigurationError if the file cannot be opened.
    """

    def __init__(self, level: str, log_file: Path | None = None) -> None:
        self._rank = _RANKS[level.upper()]
        self._lock = threading.RLock()
        self._live: Live | None = None
        self._task: TaskID
        self._phase: str | None = None
        self._ahead: list[tuple[re.Pattern[str], str]] = []  # of vLLM's phases: what begins one, and its name
        self._last_rank = 1
        self._last_detail = -DETAIL_S
        self._begin = time.monotonic()
        self._ended = False
        self._hints = FailureReader()
        self._file = LogFile(log_file, self.say) if log_file else None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_live()
        if self._file:
            self._file.close()

    def begin(self, processes: int) -> None:
        """Begin a start of vLLM, which is `processes` processes one after the other.

        The clock runs from here, but for the first start, which it has counted from the beginning.
        """
        with self._lock:
            if self._ended:
                self._begin, self._ended = time.monotonic(), False
            self._hints.forget()
            names = [f"starting vLLM, {number + 1} of {processes} processes" for number in range(processes)]
            begun = zip(_PROCESS_BEGUN, names[1:], strict=False)
            self._ahead = [*begun, (_LOADING, "loading weights"), (_COMPILING, "compiling")]
            self.phase(names[0])

    def phase(self, phase: str) -> None:
        """Enter a phase; entering the one that runs changes nothing."""
        with self._lock:
            if phase == self._phase:
                return
            self._phase = phase
            if sys.stderr.isatty():
                self._show_live(phase)
            else:
                self.say(phase)

    def detail(self, text: str) -> None:
        """Tell how far the running phase is: beside it on a terminal, else a line, at most one in DETAIL_S seconds."""
        with self._lock:
            now = time.monotonic()
            if self._phase is None:
                return
            if self._live is not None:
                self._show_live(f"{self._phase}: {text}")
            elif now - self._last_detail >= DETAIL_S:
                self._last_detail = now
                self.say(text)

    def end(self) -> float:
        """End the phases; return the seconds that they took."""
        with self._lock:
            self._stop_live()
            self._phase, self._ended = None, True
            return time.monotonic() - self._begin

    def say(self, text: str) -> None:
        """Print a line of our own, with the elapsed time while a start is under way."""
        with self._lock:
            clock = f"[{time.monotonic() - self._begin:6.1f}s] " if self._phase else ""
            self.tell(f"{clock}{text}")

    def tell(self, text: str) -> None:
        """Print lines of our own as they are."""
        with self._lock:
            _show(text, sys.stderr)

    def announce(self, text: str) -> None:
        """Print what is the result of a start, on standard output."""
        with self._lock:
            _show(text, sys.stdout)

    def line(self, line: str) -> None:
        """Take a line of vLLM's log: follow the phases in it, store it, show it if its level is high enough."""
        with self._lock:
            if self._file:
                self._file.write(line)
            match = _LEVEL.match(line)
            if match:
                self._last_rank = _RANKS[match[1]]
            if self._last_rank >= self._rank:  # a line without a level continues the one before
                _show(line, sys.stderr)
            if self._phase:
                if hint := self._hints.take(line):  # it may hang: told while it does
                    self.say(hint)
                for place, (begun, phase) in enumerate(self._ahead):
                    if begun.search(line):
                        self._ahead = self._ahead[place + 1 :]
                        self.phase(phase)
                        break

    def stop_showing_errors(self) -> None:
        """Show vLLM's log no more, unless all of it was asked for: what is told to end complains of its own end."""
        with self._lock:
            self._stop_live()
            if self._rank > _RANKS["INFO"]:
                self._rank = max(_RANKS.values()) + 1

    def _show_live(self, phase: str) -> None:
        if self._live is None:
            from rich.console import Console
            from rich.progress import Progress as Live
            from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

            columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
            # Prints of ours go above the live line, since rich takes over standard error while it is shown.
            self._live = Live(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)
            self._live.start()
            self._task = self._live.add_task(phase)
        self._live.update(self._task, description=phase)

    def _stop_live(self) -> None:
        if self._live is not None:
            with contextlib.suppress(OSError):
                self._live.stop()
            self._live = None


def _show(text: str, stream: TextIO) -> None:
    """Print a line; if nobody reads any more, or the disk behind it is full, go on without."""
    try:
        print(text, file=stream, flush=True)
    except OSError:
        # What the stream still holds would fail once more when Python ends, and make its exit status 120.
        with contextlib.suppress(OSError), Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
