"""One precondition of `make serve`, checked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Status = Literal["ok", "warn", "fail", "unknown"]
MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red"), "unknown": ("?", "dim")}


@dataclass(frozen=True)
class Check:
    """Hold one result: "fail" would stop `make serve`; `fix` is the command or the change that helps.

    `needs_machine` marks what only the machine itself can satisfy, which SERVE_GPUS stands in for.
    """

    name: str
    status: Status
    detail: str
    fix: str | None = None
    needs_machine: bool = False

    def softened(self) -> Check:
        """Return the same check as a warning, if it failed."""
        return replace(self, status="warn") if self.status == "fail" else self

    def settled(self) -> Check:
        """Return the same check, without a fix if nothing is to be fixed."""
        return replace(self, fix=None) if self.status == "ok" else self


def stops(check: Check) -> bool:
    """Tell whether the check would stop `make serve`."""
    return check.status == "fail"
