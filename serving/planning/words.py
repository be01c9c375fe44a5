"""What a command's user calls the things that can be asked for: variables in `serve`, options in `plan`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Words:
    """The words of one command.

    `options` are the fields that this command has an option for, which is how it gives advice. `given` says, for each
    field that did not come from its variable, where its value stands: `--context`, or a flag in SERVE_EXTRA_ARGS.
    """

    options: frozenset[str] = frozenset()
    given: Mapping[str, str] = field(default_factory=dict)

    def name(self, field: str) -> str:
        """Return the place where the user has given a field: what is to blame for its value."""
        return self.given.get(field, f"SERVE_{field.upper()}")

    def ask(self, field: str, value: object = None) -> str:
        """Return the words that ask for a value of a field; None turns a switch on."""
        if field in self.options:
            option = f"--{field.replace('_', '-')}"
            return option if value is None else f"{option} {value}"
        return f"SERVE_{field.upper()}={1 if value is None else value}"
