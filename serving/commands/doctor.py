"""`python -m serving doctor`: every precondition of `make serve`, and the command that fixes what is missing."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from serving.checks.check import MARKS
from serving.commands.plan import as_json
from serving.commands.say import say
from serving.launch import survey
from serving.settings import ServeSettings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from serving.checks.check import Check


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `doctor`; everything else is a setting."""
    parser.add_argument("--json", action="store_true", help="print the checks and the plan for machines")


def run(args: argparse.Namespace) -> int:
    """Print the checks and the plan; return 1 if anything would stop `make serve`, else 0."""
    found = survey(ServeSettings.load(), ask_hub=True, say=say)
    stopped = next((check for check in found.checks if check.stops), None)
    if args.json:
        plan = as_json(found.plan) if found.plan else None
        checks = [check.as_json() for check in found.checks]
        print(json.dumps({"ok": stopped is None, "checks": checks, "plan": plan}, indent=2))
    else:
        _show(found.checks)
        if found.settled is not None and found.plan is not None and found.plan.fits:
            from serving.commands.plan_view import show

            show(found.settled.facts, found.hardware, found.plan)
    if stopped is not None:
        print(f"`make serve` would end with: {stopped.refusal()}", file=sys.stderr)
        return 1
    return 0


def _show(checks: Sequence[Check]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    for check in checks:
        mark, style = MARKS[check.status]
        text = Text(check.detail)
        if check.fix and check.status != "ok":
            text.append(f"\n-> {check.fix}", "bold")
        table.add_row(Text(mark, style), check.name, text)
    Console(highlight=False).print(table)
