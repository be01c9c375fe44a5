"""Show the output of a long step in one live line, or elsewhere than on a terminal in a line now and then.

Reads standard input: what uv tells (phases, downloads, and one line for each of some 150 packages, which nobody reads)
and counts like "compiled 200 of 20,000 files". What is neither, such as an error, is passed on as it is.
"""

from __future__ import annotations

import re
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SILENCE_S = 10.0
PACKAGE = re.compile(r" [+~-] \S+==")
STEP = re.compile(
    r"(Resolved|Prepared|Installed|Uninstalled|Audited) \d+ packages? in .*"
    r"|\s*(Downloading|Downloaded|Building|Built) \S.*"
    r"|Using Python .*"
    r"|compiled [\d,]+ of [\d,]+ files"
)
# What comes after a step, which is what one waits for.
NEXT = {"Using": "finding the packages", "Resolved": "downloading", "Prepared": "putting the packages in place"}
PHASES = ("Using", "Resolved", "Prepared", "Installed")


def main() -> None:
    """Follow standard input to its end."""
    if sys.stderr.isatty():
        follow_live()
        return
    last = time.monotonic()
    unsaid = None
    for line in lines():
        if not STEP.fullmatch(line):
            print(line, file=sys.stderr, flush=True)
        elif line.startswith(PHASES) or time.monotonic() - last >= SILENCE_S:
            last, unsaid = time.monotonic(), None
            print(f"  {said(line)}", file=sys.stderr, flush=True)
        else:
            unsaid = line
    if unsaid is not None:
        print(f"  {said(unsaid)}", file=sys.stderr, flush=True)


def follow_live() -> None:
    """Follow standard input in one line of the terminal."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("...")
        for line in lines():
            if STEP.fullmatch(line):
                progress.update(task, description=said(line))
            else:
                console.print(line, markup=False, soft_wrap=True)


def lines() -> Iterator[str]:
    """Yield the lines of standard input that somebody should see."""
    for raw in sys.stdin:
        line = raw.rstrip()
        if line and not PACKAGE.match(line):
            yield line


def said(line: str) -> str:
    """Return a step as it is shown: what begins with it, where it is the end of another."""
    line = line.strip()
    begun = NEXT.get(line.split()[0])
    if begun is None:
        return line
    return f"{begun} ..." if line.startswith("Using") else f"{line}; {begun} ..."


if __name__ == "__main__":
    main()
