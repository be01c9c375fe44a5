"""The command line of the serving side: `python -m serving COMMAND`."""

from __future__ import annotations

import argparse
import logging
import sys
from importlib import import_module

from serving.errors import EngineFailed, ServingError

# A module for each, with `add_arguments(parser)` and `run(args) -> int`; only the one that is asked for is imported.
COMMANDS = {
    "serve": ("serving.commands.serve", "start vLLM as the SERVE_* settings say, and keep it up"),
    "plan": ("serving.commands.plan", "say what fits on the hardware, before a byte is downloaded"),
    "plan-table": ("serving.commands.plan_table", "say what fits on every known GPU"),
    "models": ("serving.commands.models", "list the models that are known here, and what each takes"),
    "explain": ("serving.commands.explain", "say why vLLM failed, from its log (a file, or stdin)"),
    "doctor": ("serving.commands.doctor", "check every precondition of `serve`"),
    "chat": ("serving.commands.chat", "talk to the server of this machine, or to the one that LLM_BASE_URL names"),
    "status": ("serving.commands.status", "say what a running server does now, here or elsewhere"),
    "fleet": ("serving.commands.fleet", "start several engines behind one address, and keep them up"),
    "reload": ("serving.commands.reload", "restart a fleet's engines one after the other, with today's settings"),
    "key": ("serving.commands.key", "make, list and remove keys with names and limits"),
    "bench": ("serving.commands.bench", "say how many users a server carries, and what a token costs"),
    "export": (
        "serving.commands.export.command",
        "write the same deployment for Helm, SkyPilot, vllm-router, systemd; what watches it for Prometheus, Grafana",
    ),
}


def main(argv: list[str]) -> int:
    """Run one command; return its exit status: 0, or that of the error (see `serving.errors`)."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    listing = "\n".join(f"  {name:<12}{about}" for name, (_, about) in COMMANDS.items())
    top = argparse.ArgumentParser(
        prog="python -m serving",
        description=__doc__,
        epilog=f"commands:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    top.add_argument("arguments", nargs=argparse.REMAINDER, help="`python -m serving COMMAND --help` lists them")
    chosen = top.parse_args(argv)
    module_name, about = COMMANDS[chosen.command]
    module = import_module(module_name)
    parser = argparse.ArgumentParser(prog=f"python -m serving {chosen.command}", description=about)
    module.add_arguments(parser)
    try:
        return int(module.run(parser.parse_args(chosen.arguments)))
    except ServingError as error:
        if isinstance(error, EngineFailed):
            print(*error.tail, sep="\n", file=sys.stderr)
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
