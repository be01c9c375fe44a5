"""Stream a worker's log until Ctrl-C."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deployment.commands import options as shared
from deployment.errors import DeployError
from deployment.status import scaled_down
from serving.errors import ConfigurationError

if TYPE_CHECKING:
    import argparse

    from deployment.session import Session

MOST_LINES = 5000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `logs`."""
    shared.add_json(parser)
    parser.add_argument("--worker", metavar="ID", help="whose log; default: one that runs")
    parser.add_argument("--tail", type=int, default=100, metavar="N", help=f"lines to begin with, at most {MOST_LINES}")


def run(session: Session, options: argparse.Namespace) -> int:
    """Show the log."""
    if not 0 <= options.tail <= MOST_LINES:
        raise ConfigurationError(
            f"--tail {options.tail} is not allowed: it must be a number of lines, 0 to {MOST_LINES}."
        )
    with session.api() as api:
        endpoint = session.must_find(api)
        workers = api.workers(endpoint.id).workers
        if options.worker is not None:
            workers = [worker for worker in workers if worker.id == options.worker]
        if not workers:
            which = f"No worker {options.worker!r} runs" if options.worker else "No worker runs"
            hint = scaled_down(endpoint, session.deploy.workers_max) or "a request starts one."
            raise DeployError(f"{which}: RunPod keeps a log only while its worker lives; {hint}")
        worker = min(workers, key=lambda item: (item.is_stale, item.status in ("THROTTLED", "INITIALIZING")))
        session.terminal.say(f"Worker {worker.id} ({worker.status.lower()})", "bold")
        for event in api.worker_log(endpoint.id, worker.id, tail=options.tail):
            session.terminal.say(f"{event.ts} {event.line}".strip())
            session.terminal.result(event.model_dump())
    return 0
