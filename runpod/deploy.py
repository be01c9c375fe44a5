"""Deploy to RunPod: from `.env` to a running endpoint and back to zero, by one command each.

Run by path, never imported as part of a package: a folder `runpod` with an `__init__.py` would hide RunPod's SDK.
"""

from __future__ import annotations

import argparse
import logging
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from deployment import settings as deploy_settings
from deployment.commands import COMMANDS
from deployment.masking import Redactor, secret_values
from deployment.session import Session
from deployment.terminal import Screen
from serving.errors import ServingError

if TYPE_CHECKING:
    from collections.abc import Iterator


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    whole = argparse.ArgumentParser(prog="runpod/deploy.py", description=__doc__.partition("\n")[0])
    commands = whole.add_subparsers(dest="command", required=True, metavar="{" + ",".join(COMMANDS) + "}")
    for name, run in COMMANDS.items():
        about = (run.__doc__ or "").partition("\n")[0]
        command = commands.add_parser(name, help=about, description=about)
        command.add_argument("--json", action="store_true", help="print the result as JSON, the rest on stderr")
        if name in ("up", "rollback", "down"):
            command.add_argument("--yes", action="store_true", help="do not ask")
            command.add_argument("--dry-run", action="store_true", help="show what would be done, and do nothing")
        if name in ("up", "rollback"):
            command.add_argument("--no-wait", action="store_true", help="do not wait until a worker is ready")
        if name == "status":
            command.add_argument("--watch", action="store_true", help="show it again and again, until Ctrl-C")
        if name == "down":
            command.add_argument(
                "--volume", action="store_true", help="delete DEPLOY_NETWORK_VOLUME too, with its files"
            )
        if name == "logs":
            command.add_argument("--worker", metavar="ID", help="whose log; default: one that runs")
            command.add_argument("--tail", type=int, default=100, metavar="N", help="lines to begin with, at most 5000")
    return whole


def main(argv: list[str] | None = None) -> int:
    """Run one command; return the exit status."""
    options = parser().parse_args(argv)
    redact = Redactor()
    with _log_to_stderr(redact):
        return _run(options, redact)


def _run(options: argparse.Namespace, redact: Redactor) -> int:
    session: Session | None = None
    try:
        wanted = deploy_settings.load()
        redact.learn((*wanted.secrets(), *secret_values(wanted.travelling)))
        screen = Screen(redact, as_json=options.json, yes=getattr(options, "yes", False))
        session = Session(wanted, screen)
        return COMMANDS[options.command](session, options)
    except ServingError as error:
        _complain(redact(f"deploy: {error}"), session)
        return error.exit_status
    except KeyboardInterrupt:
        if options.command in ("up", "rollback", "down"):
            _complain("\ndeploy: stopped.", session, otherwise="Nothing was changed.")
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone
        return 1


def _complain(sentence: str, session: Session | None, otherwise: str = "") -> None:
    """Say what went wrong, and what it leaves behind."""
    standing = session.screen.redact(session.standing) if session is not None else ""
    sys.stderr.write("\n".join(filter(None, (sentence, standing or otherwise))) + "\n")


@contextmanager
def _log_to_stderr(redact: Redactor) -> Iterator[None]:
    class Redacting(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return redact(super().format(record))

    handler = logging.StreamHandler()
    handler.setFormatter(Redacting("%(message)s"))
    logging.getLogger("runpod_api").setLevel(logging.INFO)  # it tells of calls that are repeated
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


if __name__ == "__main__":
    sys.exit(main())
