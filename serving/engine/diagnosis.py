"""Why vLLM ended, in one sentence: what its log says, turned into what to do.

A log is read line by line, as it comes, and only what may be the cause is kept: the first line of each kind of failure,
and the first error of each process. So it does not matter how far above the end the cause stands, how many workers
repeat it, or what noise follows. The texts are in `failure_texts.toml`.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from client.terminal import sanitize_line
from serving.engine.failures import failures

if TYPE_CHECKING:
    from collections.abc import Iterable

    from serving.engine.failures import Failure

LINE_CHARS = 4000  # of a line; what explains a failure stands at its beginning
SHAPES = 5000  # remembered, of lines that were read
WORD_CHARS = 200  # of what a sentence takes from the log
AFTERMATH_RANK = 3  # of the table: what follows from another failure

# What only says that something is retried is no failure, whatever it quotes.
_RETRIED = re.compile(r"(?i)\bretry(?:ing)?\b|\bwill retry\b|thrown while requesting")
# vLLM's lines, and those of Python's logging: what is not an error may quote one.
_LEVEL = re.compile(r"(?:^|[\s|)\]])(DEBUG|INFO|WARNING|ERROR|CRITICAL)(?: \d\d-\d\d \d\d:\d\d:\d\d|:| -|\])")
_DIGITS = re.compile(r"\d+")
_SECRET = re.compile(r"\bhf_\w{8,}|\bsk-[\w-]{8,}|(?<=//)[^/@\s]+(?=@)|(?<=Bearer )\S+")
_PROCESS = re.compile(r"\(([\w .=]*pid=\d+)\)|\[(rank\d+)\]:?")
_EXCEPTION = re.compile(r"(?:^|[\s\])|])((?:[a-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Failure))(?:: (?P<why>\S.*))?$")
# What follows from an error in another process.
_AFTERMATH = re.compile(
    r"Engine core initialization failed|WorkerProc initialization failed|EngineDeadError|See root cause"
    r"|Engine core proc|BrokenPipeError|ConnectionResetError|CancelledError|Executor failed"
    r"|EngineGenerateError|died unexpectedly"
)
_SIGNALS = {
    signal.SIGKILL: "vLLM was killed (SIGKILL): by hand, or by the system for want of memory (`dmesg` tells).",
    signal.SIGILL: "This processor lacks an instruction that vLLM's build needs (the CPU build wants AVX2).",
    signal.SIGBUS: "A write to memory failed (SIGBUS), mostly because /dev/shm is full: start the container with "
    "--shm-size=8g or --ipc=host.",
}


@dataclass(frozen=True)
class Cause:
    """Why vLLM ended. `known`: the log, or the signal, tells it; else the sentence only quotes."""

    sentence: str
    known: bool


class FailureReader:
    """Read vLLM's log as it comes; keeps a line for each kind of failure and each process, however long the log is."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Forget what was read: what a start said does not explain the end of a vLLM that has served since."""
        self._lines = 0
        self._found: dict[int, tuple[int, str]] = {}  # by place in the table: the line's number, the sentence
        self._first_errors: dict[str, str] = {}
        self._counts: dict[int, int] = {}
        self._shapes: set[str] = set()

    def take(self, line: str) -> str | None:
        """Read a line; return a sentence if it is one that a person who waits should be told now."""
        line = line[:LINE_CHARS]
        self._lines += 1
        level = match[1] if (match := _LEVEL.search(line[:200])) else None
        grave = level in (None, "ERROR", "CRITICAL") and not _RETRIED.search(line) and self._is_new(line)
        hint = None
        for place, failure in enumerate(failures()):
            if failure.hint is None and (not grave or place in self._found):
                continue
            if match := failure.pattern.search(line):
                self._counts[place] = self._counts.get(place, 0) + 1
                if failure.hint is None or self._counts[place] == failure.hint:
                    self._found[place] = (self._lines, _fill(failure, match))
                    hint = self._found[place][1] if failure.hint else hint
        if grave and (error := _EXCEPTION.search(line)) and not _AFTERMATH.search(line):
            process = "".join(filter(None, found.groups())) if (found := _PROCESS.search(line)) else ""
            self._first_errors.setdefault(process, _quoted(error[0].strip(" |)]")))
        return hint

    def _is_new(self, line: str) -> bool:
        """Whether no line like this, but for its numbers, was read: eight workers say the same, and floods repeat."""
        shape = _DIGITS.sub("", line)
        if shape in self._shapes:
            return False
        if len(self._shapes) < SHAPES:
            self._shapes.add(shape)
        return True

    def cause(self, status: int | None) -> Cause:
        """Return why vLLM ended with `status` (negative, or more than 128 as a shell has it: a signal)."""
        table = failures()
        ranked = sorted((table[place].rank, line, place) for place, (line, _) in self._found.items())
        if ranked and ranked[0][0] < AFTERMATH_RANK:
            return Cause(self._found[ranked[0][2]][1], known=True)
        number = _signal(status)
        if number in _SIGNALS:
            return Cause(_SIGNALS[signal.Signals(number)], known=True)
        if ranked:
            return Cause(self._found[ranked[0][2]][1], known=True)
        how = (
            f"by signal {number}" if number else "with an unknown status" if status is None else f"with status {status}"
        )
        first = next(iter(self._first_errors.values()), None)
        said = f" (its first error: {first})" if first else ""
        return Cause(f"vLLM ended {how}: its last lines say why{said}.", known=False)


def diagnose(lines: Iterable[str], returncode: int | None) -> str:
    """Return one sentence on why vLLM ended with `returncode` (negative: a signal) after logging `lines`."""
    reader = FailureReader()
    for line in lines:
        reader.take(line)
    return reader.cause(returncode).sentence


def _fill(failure: Failure, match: re.Match[str]) -> str:
    return failure.say.format(**{name: _quoted(word or "?") for name, word in match.groupdict().items()})


def _quoted(text: str) -> str:
    """Return what a sentence may quote of a log: one line, not too long, nothing that a terminal would obey."""
    clean = _SECRET.sub("***", sanitize_line(text)).rstrip(". ")
    return clean if len(clean) <= WORD_CHARS else clean[:WORD_CHARS] + "..."


def _signal(status: int | None) -> int | None:
    if status is not None and status < 0:
        return -status
    return status - 128 if status is not None and 128 < status < 160 else None
