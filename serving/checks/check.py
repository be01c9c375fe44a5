"""One precondition of `make serve`, checked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from serving.errors import Refused, ServingError

Status = Literal["ok", "warn", "fail", "unknown"]
MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red"), "unknown": ("?", "dim")}


@dataclass(frozen=True)
class Check:
    """One result: "fail" stops `make serve`; `fix` is the command or the change that helps.

    `needs_machine` marks what only the machine itself can satisfy, which SERVE_GPUS stands in for. `error` is what
    `make serve` ends with where that is not for `refusal` to word.
    """

    name: str
    status: Status
    detail: str
    fix: str | None = None
    needs_machine: bool = False
    error: ServingError | None = None

    @classmethod
    def failed(cls, name: str, error: ServingError, fix: str | None = None, *, needs_machine: bool = False) -> Check:
        """Return the check that fails with an error's own sentence."""
        return cls(name, "fail", str(error), fix, needs_machine, error)

    def softened(self) -> Check:
        """Return the same check as a warning, if it failed."""
        return replace(self, status="warn") if self.status == "fail" else self

    @property
    def stops(self) -> bool:
        """Whether the check stops `make serve`."""
        return self.status == "fail"

    @property
    def told(self) -> str:
        """Return the check as one sentence."""
        if self.error is not None:
            return str(self.error)
        detail = self.detail.rstrip(".")
        return f"{self.name}: {detail} (what helps: {self.fix})." if self.fix else f"{self.name}: {detail}."

    def refusal(self) -> ServingError:
        """Return what a start that the check stops ends with."""
        return self.error or Refused(f"{self.told} `make doctor` checks everything.")

    def as_json(self) -> dict[str, Any]:
        """Return the check for machines, without a fix if nothing is to be fixed."""
        return {
            "name": self.name,
            "status": self.status,
            "detail": self.detail,
            "fix": None if self.status == "ok" else self.fix,
            "needs_machine": self.needs_machine,
        }
