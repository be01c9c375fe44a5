"""The terminal: every word passes the redactor and loses what a terminal obeys; people read it, or a program does."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from client.terminal import sanitize, sanitize_line
from deployment.errors import Declined

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.status import Status

    from deployment.masking import Redactor

WIDTH_WITHOUT_TERMINAL = 132


class Terminal:
    """What prints for a person; with `as_json` people's lines go to stderr and `result` alone to stdout."""

    def __init__(self, redact: Redactor, *, as_json: bool = False, yes: bool = False) -> None:
        """`yes` answers every question, as `--yes` does."""
        self.redact = redact
        self.as_json = as_json
        self._yes = yes
        file = sys.stderr if as_json else sys.stdout
        width = None if file.isatty() else WIDTH_WITHOUT_TERMINAL
        self._console = Console(file=file, width=width, highlight=False, markup=False, soft_wrap=False)
        self._status: Status | None = None

    def clean(self, text: str) -> str:
        """Return a text without secrets, and without anything that a terminal obeys."""
        return self.redact(sanitize(text))  # in this order: a key must not hide behind a control character

    def say(self, text: str = "", style: str = "") -> None:
        """Print a line."""
        self._console.print(Text(self.clean(text), style=style), soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a line that should be noticed."""
        self.say(f"Warning: {text}", "yellow")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table; a column whose name starts with `>` is aligned to the right."""
        if title:
            self.say(title, "bold")  # a table would wrap its title at its own width
        table = Table(box=None, pad_edge=False, show_header=any(columns))
        for column in columns:
            table.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left")
        for row in rows:
            table.add_row(*(Text(sanitize_line(self.clean(cell))) for cell in row))
        self._console.print(table)

    def result(self, value: Any) -> None:
        """Print the machine's answer as one line of JSON; nothing without `--json`."""
        if self.as_json:
            sys.stdout.write(json.dumps(self._redacted(value)) + "\n")  # ASCII, so that a terminal obeys none of it
            sys.stdout.flush()

    def _redacted(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.redact(value)
        if isinstance(value, dict):
            return {key: self._redacted(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._redacted(item) for item in value]
        return value

    def ask(self, question: str) -> None:
        """Return if the answer is yes. Raises Declined if it is no, or if nobody can be asked."""
        if self._yes:
            return
        if not sys.stdin.isatty():
            raise Declined(f"{question} Nobody is at the keyboard to say so: add --yes (make: ARGS=--yes).")
        self._console.print(Text(self.clean(f"{question} [y/N] "), style="bold"), end="")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise Declined("Nothing was changed.")

    @contextmanager
    def progress(self) -> Iterator[None]:
        """Show `step` as a moving line while the block runs, where there is a terminal."""
        if not self._console.is_terminal:
            yield
            return
        with self._console.status("") as self._status:
            try:
                yield
            finally:
                self._status = None

    def step(self, text: str, *, new: bool) -> None:
        """Show how far a long wait is; without a terminal, or when it is `new`, as a line of its own."""
        if self._status is not None:
            self._status.update(Text(self.clean(text)))
        elif new:
            self.say(text)

    def clear(self) -> None:
        """Empty the screen for the next picture of `--watch`."""
        if self._console.is_terminal:
            self._console.clear()
