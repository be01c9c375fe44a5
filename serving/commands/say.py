"""What a person who waits is told, beside a command's output."""

from __future__ import annotations

import sys


def say(line: str) -> None:
    """Print a line on stderr."""
    print(line, file=sys.stderr, flush=True)
