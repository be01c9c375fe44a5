"""Show workers, jobs, release, errors and cost on one screen."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from deployment import status as endpoint_status
from deployment.commands import options as shared
from deployment.report import show_status

if TYPE_CHECKING:
    import argparse

    from deployment.session import Session

WATCH_S = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `status`."""
    shared.add_json(parser)
    parser.add_argument("--watch", action="store_true", help="show it again and again, until Ctrl-C")


def run(session: Session, options: argparse.Namespace) -> int:
    """Show the endpoint."""
    with session.api() as api:
        while True:
            endpoint = session.must_find(api)
            picture = endpoint_status.read(api, endpoint, session.deploy.workers_max)
            if options.watch:
                session.terminal.clear()
            show_status(session.terminal, picture)
            session.terminal.result(picture)
            if not options.watch:
                return 0
            time.sleep(WATCH_S)
