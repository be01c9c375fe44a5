"""`python -m serving serve`: plan, start vLLM, keep it up."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from serving.commands.say import say
from serving.engine.progress import Progress
from serving.launch import prepare
from serving.settings import ServeSettings
from serving.supervisor import Supervisor

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `serve`; everything else is a setting."""
    parser.add_argument("--dry-run", action="store_true", help="print the command line of vLLM and start nothing")
    parser.add_argument("--env-file", metavar="FILE", default=".env", help="settings beside the environment's (.env)")


def run(args: argparse.Namespace) -> int:
    """Serve until a signal ends it; return 0. Raises ServingError."""
    settings = ServeSettings.load(args.env_file)
    if args.dry_run:
        print(shlex.join(prepare(settings, say=say, dry_run=True).command.argv))
        return 0
    with Progress(settings.log_level, settings.log_file) as progress:
        return Supervisor(prepare(settings, say=progress.tell, phase=progress.phase), progress).run()
