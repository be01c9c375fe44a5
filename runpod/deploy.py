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

from client.terminal import sanitize
from deployment import settings as deploy_settings
from deployment.commands import down, image, logs, plan, rollback, status, up
from deployment.masking import Redactor, secret_values
from deployment.session import Session
from deployment.terminal import Terminal
from serving.errors import ServingError

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMANDS = {
    "plan": plan, "up": up, "status": status, "logs": logs, "rollback": rollback, "down": down, "image": image,
}  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    whole = argparse.ArgumentParser(prog="runpod/deploy.py", description=__doc__.partition("\n")[0])
    commands = whole.add_subparsers(dest="command", required=True, metavar="{" + ",".join(COMMANDS) + "}")
    for name, module in COMMANDS.items():
        about = (module.__doc__ or "").partition("\n")[0]
        module.add_arguments(commands.add_parser(name, help=about, description=about))
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
        config = deploy_settings.load()
        redact.learn((*config.secrets(), *secret_values(config.worker_variables)))
        terminal = Terminal(redact, as_json=getattr(options, "json", False), yes=getattr(options, "yes", False))
        session = Session(config, terminal)
        return int(COMMANDS[options.command].run(session, options))
    except ServingError as error:
        _complain(f"deploy: {error}", session.if_interrupted if session else "", redact)
        return error.exit_status
    except KeyboardInterrupt:
        if session is not None and session.may_change:
            _complain("\ndeploy: stopped.", session.if_interrupted or "Nothing was changed.", redact)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone
        return 1


def _complain(sentence: str, left: str, redact: Redactor) -> None:
    """Say what went wrong, and what it leaves behind."""
    sys.stderr.write(redact(sanitize("\n".join(filter(None, (sentence, left))))) + "\n")


@contextmanager
def _log_to_stderr(redact: Redactor) -> Iterator[None]:
    class Redacting(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return redact(sanitize(super().format(record)))

    handler = logging.StreamHandler()
    handler.setFormatter(Redacting("%(message)s"))
    logging.getLogger("deployment").setLevel(logging.INFO)  # it tells of calls that are repeated
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


if __name__ == "__main__":
    sys.exit(main())
