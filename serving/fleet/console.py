"""Lines for a person, from a loop that must never wait: a terminal may be stopped, a pipe full, a reader gone."""

from __future__ import annotations

import queue
import threading

LINES = 10_000  # more than that many that nobody reads are dropped
LAST_S = 2.0


class Console:
    """Prints lines from a thread of its own."""

    def __init__(self) -> None:
        self._lines: queue.Queue[str | None] = queue.Queue(LINES)
        self._thread = threading.Thread(target=self._print, name="console", daemon=True)
        self._thread.start()

    def say(self, line: str) -> None:
        """Print a line, soon."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            return

    def close(self) -> None:
        """Print what is left, if somebody reads it."""
        try:
            self._lines.put(None, timeout=LAST_S)
        except queue.Full:
            return
        self._thread.join(LAST_S)

    def _print(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                print(line, flush=True)
            except (OSError, ValueError):
                return  # whoever read has gone; the fleet goes on
