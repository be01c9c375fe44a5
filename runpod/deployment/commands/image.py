"""Build the worker's image, and with --push put it where RunPod's hosts find it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from deployment.errors import DeployError
from serving.errors import ConfigurationError

if TYPE_CHECKING:
    import argparse

    from deployment.session import Session

ROOT = Path(__file__).resolve().parents[3]
BUILDERS = ("docker", "podman")
LOCAL_TAG = "gemma-vllm-kit:latest"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `image`."""
    parser.add_argument("--tag", help=f"the image's name (default: DEPLOY_IMAGE, else {LOCAL_TAG})")
    parser.add_argument("--bake", default="", metavar="MODEL", help="put the weights of a model inside")
    parser.add_argument("--push", action="store_true", help="push it")


def run(session: Session, options: argparse.Namespace) -> int:
    """Build the image. The Hugging Face token is a secret of the build: in no argument and in no layer."""
    tag = options.tag or session.deploy.image
    if options.push and not tag:
        raise ConfigurationError(
            "DEPLOY_IMAGE is not set: it must be a name in a registry that you may push to, like "
            "docker.io/YOU/gemma-worker:0.1.0."
        )
    builder = next(filter(None, map(shutil.which, BUILDERS)), None)
    if builder is None:
        raise DeployError("There is no docker and no podman on the PATH: install one of them to build an image.")
    tag = tag or LOCAL_TAG
    token = session.config.serve.hf_token
    secret = ["--secret", "id=hf_token,env=HF_TOKEN"] if token else []
    _run(
        [
            *(builder, "build", "--platform", "linux/amd64", "--file", "runpod/Dockerfile", "--tag", tag),
            *("--build-arg", f"BAKE={options.bake}", *secret, "."),
        ],
        {"HF_TOKEN": token.get_secret_value()} if token else {},
    )
    if options.push:
        _run([builder, "push", tag], {})
    return 0


def _run(command: list[str], env: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"DOCKER_BUILDKIT": "1"} | env, check=False)
    if done.returncode:
        raise DeployError(f"`{' '.join(command[:2])}` failed (exit status {done.returncode}); its last lines say why.")
