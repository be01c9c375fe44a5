"""What can go wrong on the serving side, as one tree.

ServingError                one sentence that names the fix; `exit_status` is what the program ends with
├── ConfigurationError  2   input that makes no sense: names the variable, its value and what is allowed
├── DoesNotFit          3   no plan fits the hardware; says the nearest thing that would
├── Refused             1   a precondition is missing: port taken, no engine, broken driver, no access to the model
└── EngineFailed        1   vLLM did not start, or died for good
"""

from __future__ import annotations


class ServingError(Exception):
    """Root of this package's errors."""

    exit_status = 1


class ConfigurationError(ServingError):
    """Input that makes no sense."""

    exit_status = 2


class DoesNotFit(ServingError):
    """No plan fits the hardware."""

    exit_status = 3


class Refused(ServingError):
    """A precondition is missing, before anything was started."""


class EngineFailed(ServingError):
    """vLLM did not start, or died for good.

    `reason` is one sentence; `tail` holds the last lines (at most 20) of vLLM's log.
    """

    def __init__(self, reason: str, tail: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.tail = tail
