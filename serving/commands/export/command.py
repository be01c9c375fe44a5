"""`python -m serving export`: the same model, name and flags for other engines, and what watches them.

Nothing of these engines is rebuilt here. No secret is written: each format refers to where its engine keeps them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from serving.commands.export.compose import compose
from serving.commands.export.grafana import grafana
from serving.commands.export.helm import helm
from serving.commands.export.prometheus import prometheus
from serving.commands.export.router import router
from serving.commands.export.skypilot import skypilot
from serving.commands.export.systemd import systemd
from serving.errors import ConfigurationError

if TYPE_CHECKING:
    import argparse

# For each a function that reads the options and returns the text.
FORMATS = {
    "helm": helm,
    "skypilot": skypilot,
    "router": router,
    "systemd": systemd,
    "compose": compose,
    "prometheus": prometheus,
    "grafana": grafana,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `export`; what they do not say comes from the SERVE_* settings."""
    parser.add_argument("format", choices=FORMATS, help="what to write")
    parser.add_argument("--output", metavar="FILE", type=Path, help="write to this file; default: standard output")
    parser.add_argument(
        "--gpus", help="GPUs of one machine, like '1x NVIDIA L40S'; default: SERVE_GPUS, else this machine's"
    )
    parser.add_argument("--replicas", type=int, default=1, metavar="N", help="machines, helm and skypilot (default 1)")
    parser.add_argument(
        "--url", action="append", default=[], help="router, prometheus: a machine's address; once for each"
    )
    parser.add_argument("--rules", action="store_true", help="prometheus: the alerts in place of what is read")
    parser.add_argument("--user", help="systemd: the user to run as (default: you)")
    parser.add_argument(
        "--fleet", action="store_true", help="systemd: `make fleet`, which `systemctl reload` restarts without a gap"
    )


def run(args: argparse.Namespace) -> int:
    """Write one format; return 0. Raises ConfigurationError, DoesNotFit or Refused."""
    if args.replicas < 1:
        raise ConfigurationError(
            f"--replicas {args.replicas} is not allowed: it must be a number of machines, 1 or more."
        )
    text = FORMATS[args.format](args)
    if args.output is None:
        sys.stdout.write(text)
    else:
        try:
            args.output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(f"--output {args.output} cannot be written: {error.strerror}.") from error
        print(f"Wrote {args.output}, which begins with the commands that use it.", file=sys.stderr)
    return 0
