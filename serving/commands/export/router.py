"""A command of vLLM's router over machines that each run `make serve`.

Source: `vllm-router --help`.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from serving.commands.export.addresses import checked
from serving.errors import ConfigurationError
from serving.settings import STARTUP_S

if TYPE_CHECKING:
    import argparse

ROUTER_PORT = 30000


def router(args: argparse.Namespace) -> str:
    """Return a `vllm-router` command over machines that each run `make serve`."""
    if not args.url:
        raise ConfigurationError("--url is missing: give each machine's address, like --url http://10.0.0.5:8000.")
    command = ["vllm-router", "--worker-urls", *checked(args.url)]
    # cache_aware sends what begins alike to the same machine, whose prefix cache then holds it.
    command += ["--policy", "cache_aware", "--host", "127.0.0.1", "--port", str(ROUTER_PORT)]
    command += ["--worker-startup-timeout-secs", f"{STARTUP_S:.0f}", "--request-timeout-secs", "1800"]
    lines = (
        "#!/bin/sh",
        "# vLLM's router (pip install vllm-router) over machines that serve the same model under the same name.",
        "# It passes the caller's key on to them and checks none itself: keep it on loopback or behind a proxy.",
        f"# Then: LLM_BASE_URL=http://127.0.0.1:{ROUTER_PORT}/v1",
        f"exec {shlex.join(command)}",
    )
    return "\n".join(lines) + "\n"
