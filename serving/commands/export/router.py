"""A command of vLLM's router over machines that each run `make serve`.

Its arguments are those of a fleet.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from serving.commands.export.addresses import checked
from serving.errors import ConfigurationError
from serving.fleet.router import PROGRAM, arguments
from serving.settings import STARTUP_S

if TYPE_CHECKING:
    import argparse

ROUTER_PORT = 30000


def router(args: argparse.Namespace) -> str:
    """Return a `vllm-router` command over machines that each run `make serve`."""
    if not args.url:
        raise ConfigurationError("--url is missing: give each machine's address, like --url http://10.0.0.5:8000.")
    command = [PROGRAM, *arguments(checked(args.url), "127.0.0.1", ROUTER_PORT, STARTUP_S)]
    lines = (
        "#!/bin/sh",
        f"# vLLM's router (pip install {PROGRAM}) over machines that serve the same model under the same name.",
        "# It passes the caller's key on to them and checks none itself, and whoever reaches it may change the list of",
        "# machines: keep it on loopback, or behind a proxy that passes /v1/ alone.",
        "# It knows chat completions, completions, embeddings and the list of models; all else it sends on without the",
        "# caller's key.",
        "# Restart one machine after the other: SIGTERM, and start it again. New requests go to the others meanwhile.",
        f"# Then: LLM_BASE_URL=http://127.0.0.1:{ROUTER_PORT}/v1",
        f"exec {shlex.join(command)}",
    )
    return "\n".join(lines) + "\n"
