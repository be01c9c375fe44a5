"""The standard streams as people really leave them: closed, a pipe, a file, a terminal, in any encoding."""

from __future__ import annotations

import codecs
import os
import select
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from client.errors import ConfigurationError
from client.terminal import sanitize

if TYPE_CHECKING:
    from types import ModuleType

_SAID_AFTER_S = 1.0
_REST_LIMIT = 16 * 2**20  # bytes
# Lines that follow each other as fast as this were pasted, where the terminal does not say so itself.
_PASTED_S = 0.05


class Console:
    """Where questions come from and answers go to.

    `interactive` says whether a person types; `has_output` whether there is a stdout at all.
    """

    def __init__(self) -> None:
        self.has_output = sys.stdout is not None
        _open_what_is_closed()
        self.interactive = sys.stdin.isatty()
        _reconfigure(sys.stdin, "surrogateescape")
        _reconfigure(sys.stdout, "replace")
        _reconfigure(sys.stderr, "backslashreplace")
        self._prompt_shown = sys.stdout.isatty()
        self._marks_pastes = self.interactive and self._prompt_shown and _edit_lines()

    def show(self, text: str, end: str = "\n") -> None:
        """Print to stdout, at once. What a terminal would obey is left out."""
        print(sanitize(text), end=end, flush=True)

    def complain(self, text: str) -> None:
        """Print to stderr: what is not part of an answer. There may be nobody to read it."""
        with suppress(OSError):
            print(sanitize(text), file=sys.stderr, flush=True)

    def read_line(self) -> str:
        """Return the next question; several lines that were pasted are one. Raises EOFError at the end."""
        if not self.interactive:
            line = sys.stdin.buffer.readline()
            if not line:
                raise EOFError
            return decode(line)
        if not self._prompt_shown:
            print("> ", end="", file=sys.stderr, flush=True)
        lines = [input("> " if self._prompt_shown else "")]
        with suppress(EOFError):
            while not self._marks_pastes and select.select([sys.stdin], [], [], _PASTED_S)[0]:
                lines.append(input())
        return sanitize(decode("\n".join(lines).encode(sys.stdin.encoding, "surrogateescape")))

    def read_rest(self) -> str:
        """Return all that a pipe or a file at stdin holds, "" for anything else. Says so if that has to be waited for.

        Raises ConfigurationError if it is more than any model reads.
        """
        kind = os.fstat(sys.stdin.fileno()).st_mode
        if not stat.S_ISFIFO(kind) and not stat.S_ISREG(kind):
            return ""
        if not select.select([sys.stdin], [], [], _SAID_AFTER_S)[0]:
            self.complain("Waiting for the rest of the question from stdin (`< /dev/null` if there is none) ...")
        data = sys.stdin.buffer.read(_REST_LIMIT + 1)
        if len(data) > _REST_LIMIT:
            raise ConfigurationError(
                f"There is more than {_REST_LIMIT // 2**20} MiB at stdin: no model reads that much."
            )
        return decode(data)

    def give_up_output(self) -> None:
        """Let the rest of the output go nowhere, so that Python does not fail to flush it when it exits."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def decode(data: bytes) -> str:
    """Return the text of `data`: UTF-8 or UTF-16 where it is that, else the locale's encoding, else Windows's Latin."""
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for encoding in ("utf-16" if wide else "utf-8-sig", sys.stdin.encoding, "cp1252"):
        with suppress(UnicodeError):
            return data.decode(encoding)
    return data.decode("latin-1")


def decode_argument(argument: str) -> str:
    """Return an argument of the command line as `decode` reads its bytes."""
    return decode(os.fsencode(argument))


def _open_what_is_closed() -> None:
    """Put the null device where a standard stream is closed, so that no connection gets its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - as long as we live


def _reconfigure(stream: TextIO, errors: str) -> None:
    """Let `stream` take any text; a test's own streams stay as they are."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors=errors)


def _edit_lines() -> bool:
    """Give `input()` line editing; return whether it will then take a pasted text as one line, whatever is in it."""
    try:
        import readline
    except ImportError:
        return False
    if not _is_gnu(readline):
        return False
    readline.parse_and_bind("set enable-bracketed-paste on")  # which Python turns off
    return os.environ.get("TERM", "dumb") not in ("", "dumb")


def _is_gnu(readline: ModuleType) -> bool:
    return "libedit" not in (readline.__doc__ or "")
