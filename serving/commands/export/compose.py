"""A Compose file for one machine with Docker and NVIDIA's container toolkit: vLLM's image, guarded as by `make serve`.

Source: the Compose specification (compose-spec.io).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.checks.settings import refuse_open_server
from serving.commands.export.deployment import IMAGE, MOUNT, NAME, SECRETS, as_yaml, deployment
from serving.engine.command import VLLM_SIDE
from serving.engine.process import EXIT_MARGIN_S
from serving.engine.program import pinned_version
from serving.settings import DEFAULT_PORT, STARTUP_S, ServeSettings

if TYPE_CHECKING:
    import argparse

# The image has no curl that can be relied on, and always a Python.
HEALTH = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{DEFAULT_PORT}/health', timeout=4)"
KEYS = f"{MOUNT}/keys"
WEIGHTS = "/weights"


def compose(args: argparse.Namespace) -> str:
    """Return a compose.yaml."""
    settings = ServeSettings.load()
    refuse_open_server(settings)
    made = deployment(args.gpus, host="0.0.0.0")  # noqa: S104 (inside the container; `ports` says who gets in)
    env = {name: _there(value) for name, value in made.command.env.items() if name not in SECRETS}
    env["HF_HOME"] = WEIGHTS
    volumes = [f"weights:{WEIGHTS}", f"{VLLM_SIDE}:{MOUNT}:ro"]
    if settings.api_keys_file is not None:
        # The folder, since a file that is replaced would stay the old one inside.
        file = settings.api_keys_file.absolute()
        volumes.append(f"{file.parent}:{KEYS}:ro")
        env |= {"SERVE_API_KEYS_FILE": f"{KEYS}/{file.name}", "SERVE_API_KEYS_STATE": "/tmp/keys"}  # noqa: S108
    secrets = [name for name in SECRETS if name in made.command.env or name == "HF_TOKEN"]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    service: dict[str, Any] = {
        "image": f"{IMAGE}:v{pinned_version('cuda')}",
        "entrypoint": [Path(made.command.argv[0]).name, "serve"],
        "command": [_there(word) for word in made.command.argv[2:]],
        # A name without a value: taken from the shell, or from the `.env` beside this file.
        "environment": [*(f"{name}={value}" for name, value in sorted(env.items())), *secrets],
        "ports": [f"{host}:{settings.port}:{DEFAULT_PORT}"],
        "volumes": volumes,
        "shm_size": "20gb" if made.gpus > 1 else "2gb",
        "healthcheck": {
            "test": ["CMD", "python3", "-c", HEALTH],
            "interval": "10s",
            "timeout": "5s",
            "retries": 3,
            "start_period": f"{STARTUP_S:.0f}s",
        },
        "deploy": {
            "resources": {
                "reservations": {"devices": [{"driver": "nvidia", "count": made.gpus, "capabilities": ["gpu"]}]}
            }
        },
        # Running requests end whole, and then vLLM itself.
        "stop_grace_period": f"{settings.shutdown_timeout + EXIT_MARGIN_S:.0f}s",
        "restart": "unless-stopped",
    }
    given = " ".join(f"{name}=..." for name in secrets)
    head = (
        "Docker Compose (https://docs.docker.com/compose). Secrets come from your shell, or from a .env beside it:",
        f"  {given} docker compose -f THIS_FILE up --detach --wait",
    )
    return as_yaml(head, {"name": NAME, "services": {"vllm": service}, "volumes": {"weights": {}}})


def _there(word: str) -> str:
    """Return a word as it is inside: with files where they are mounted, and no `$` that Compose would fill."""
    return word.replace(str(VLLM_SIDE), MOUNT).replace("$", "$$")
