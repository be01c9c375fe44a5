"""The file that gets all of vLLM's log. It may become unwritable at any time, and vLLM must live on."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from serving.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def refuse_unwritable(path: Path) -> None:
    """Raise ConfigurationError if a file could not be appended to, or made; make none."""
    place = path if path.exists() else path.parent
    if path.is_dir():
        raise _refusal(path, errno.EISDIR)
    if not place.exists():
        raise _refusal(path, errno.ENOENT)
    if not os.access(place, os.W_OK):
        raise _refusal(path, errno.EACCES)


def _refusal(path: Path, number: int | None) -> ConfigurationError:
    why = os.strerror(number) if number else "no file"
    return ConfigurationError(
        f"SERVE_LOG_FILE={str(path)!r} cannot be written ({why}): name a file in a folder that is there and yours."
    )


class LogFile:
    """Append lines to SERVE_LOG_FILE; `tell` gets a sentence when they begin to be lost, once for each time.

    Raises ConfigurationError if the file cannot be opened.
    """

    def __init__(self, path: Path, tell: Callable[[str], None]) -> None:
        self._path = path
        self._tell = tell
        self._lost = 0
        try:
            self._file = path.open("ab", buffering=0)  # nothing is held back that could fail later, at the end
        except OSError as error:
            raise _refusal(path, error.errno) from error

    def write(self, line: str) -> None:
        """Append a line, or count it as lost. Each line is tried, so that freed space is used."""
        gap = f"\n[lines missing here, which could not be written: {self._lost:,}]\n" if self._lost else ""
        data = f"{gap}{line}\n".encode("utf-8", "replace")
        try:
            whole = self._file.write(data) == len(data)
            why = "the disk is full"
        except OSError as error:
            whole, why = False, error.strerror or str(error)
        if whole:
            self._lost = 0
            return
        self._lost += 1
        if self._lost == 1:
            self._tell(
                f"SERVE_LOG_FILE={str(self._path)!r} cannot be written ({why}): serving goes on without the log."
            )

    def close(self) -> None:
        """Close the file."""
        self._file.close()
