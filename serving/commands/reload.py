"""`python -m serving reload`: restart the engines of a running fleet one after the other, with today's settings."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from client.terminal import sanitize_line
from serving.errors import Refused
from serving.fleet import control
from serving.settings import ServeSettings

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `reload`; what changes is what stands in `.env`."""
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")


def run(args: argparse.Namespace) -> int:
    """Follow the rolling restart to its end; return 0 if every engine has the new settings. Raises Refused."""
    port = ServeSettings.load().port
    there = control.fleets()
    if port not in there and len(there) == 1:
        port = there[0]
    elif port not in there:
        known = f" Fleets run on {', '.join(map(str, there))}: SERVE_PORT says which is meant." if there else ""
        raise Refused(
            f"No fleet runs on port {port}.{known} Only a fleet can be restarted without a gap: `make fleet` starts "
            "one, of one engine, too; `make serve` is ended and started again."
        )
    return asyncio.run(_follow(port, dry_run=args.dry_run))


async def _follow(port: int, *, dry_run: bool) -> int:
    async for message in control.ask(port, {"do": "reload", "dry_run": dry_run}):
        if "say" in message:
            print(sanitize_line(str(message["say"])), flush=True)
        if "status" in message:
            return int(message["status"])
    raise Refused("The fleet ended while it was reloading.")
