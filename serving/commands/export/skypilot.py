"""A SkyPilot service.

Source: SkyPilot's task YAML.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from serving.checks.settings import refuse_open_server
from serving.commands.export.deployment import IMAGE, MOUNT, NAME, SECRETS, as_yaml, deployment
from serving.engine.program import pinned_version
from serving.errors import ConfigurationError
from serving.settings import DEFAULT_PORT, STARTUP_S

if TYPE_CHECKING:
    import argparse

    from serving.hardware.gpu import Hardware

# How SkyPilot calls a card (`sky gpus list`), by a part of its driver's name; the longer part first.
ACCELERATORS = (
    ("A100-SXM4-40GB", "A100"), ("A100", "A100-80GB"), ("H100", "H100"), ("H200", "H200"), ("B200", "B200"),
    ("L40S", "L40S"), ("L40", "L40"), ("L4", "L4"), ("A40", "A40"), ("A10G", "A10G"), ("A10", "A10"),
    ("RTX A6000", "RTXA6000"), ("RTX A5000", "RTXA5000"), ("RTX 6000 Ada", "RTX6000-Ada"),
    ("RTX PRO 6000", "RTXPRO6000"), ("RTX 3090", "RTX3090"), ("RTX 4090", "RTX4090"), ("RTX 5090", "RTX5090"),
)  # fmt: skip


def skypilot(args: argparse.Namespace) -> str:
    """Return a SkyPilot service."""
    made = deployment(args.gpus, host="0.0.0.0")  # noqa: S104 (SkyPilot's own ports decide who gets in)
    refuse_open_server(made.settings)  # the service's port is open to the internet
    words = [*made.command.argv[:3], *made.flags(without={"--middleware": 1})]
    secrets = [name for name in SECRETS if name in made.command.env or name == "HF_TOKEN"]
    task: dict[str, Any] = {
        "name": NAME,
        "service": {
            "readiness_probe": {"path": "/health", "initial_delay_seconds": int(STARTUP_S)},
            "replica_policy": {"min_replicas": args.replicas, "max_replicas": args.replicas * 2}
            | {"target_qps_per_replica": 1.0},
        },
        "resources": {
            "accelerators": {_accelerator(made.hardware): made.gpus},
            "ports": DEFAULT_PORT,
            "disk_size": int(made.plan.weights_gib * 2 + 60),
            "image_id": f"docker:{IMAGE}:v{pinned_version('cuda')}",
        },
        "envs": made.env,
        "secrets": dict.fromkeys(secrets),
        "run": shlex.join(words),
    }
    if files := (*made.code, *made.templates):
        task["file_mounts"] = {f"{MOUNT}/{file.name}": str(file) for file in files}
    head = (
        "SkyPilot (https://docs.skypilot.co). Secrets come from your environment:",
        f"  sky serve up THIS_FILE {' '.join(f'--secret {name}' for name in secrets)}",
    )
    return as_yaml(head, task)


def _accelerator(hardware: Hardware) -> str:
    name = hardware.gpus[0].name
    found = next((sky for part, sky in ACCELERATORS if part.lower() in name.lower()), None)
    if found is None or len(hardware.counts()) > 1:
        known = ", ".join(dict.fromkeys(sky for _, sky in ACCELERATORS))
        raise ConfigurationError(f"--gpus {str(hardware)!r} is not allowed here: SkyPilot takes one kind of {known}.")
    return found
