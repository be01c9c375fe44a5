"""A RunPod on loopback, and `runpod/deploy.py` run as a user runs it: as a program, in a folder with a `.env`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deploy.fake_runpod import KEY, FakeRunpod

ROOT = Path(__file__).parents[2]
OURS = ("SERVE_", "LLM_", "WORKER_", "DEPLOY_", "RUNPOD_", "HF_")
IMAGE = "registry.example/gemma-worker:1.0"


@pytest.fixture
def runpod():
    with FakeRunpod() as fake:
        yield fake


@dataclass
class Ran:
    status: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err

    @property
    def json(self):
        return json.loads(self.out)


class Deploy:
    """Run the program; `env` is what its `.env` says."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder = folder
        self.env = env

    def write(self) -> None:
        """Write `.env` as it is now."""
        (self.folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in self.env.items()))

    def start(self, *arguments: str, **options) -> subprocess.Popen[str]:
        """Start it and do not wait."""
        self.write()
        environment = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        return subprocess.Popen(
            [sys.executable, str(ROOT / "runpod" / "deploy.py"), *arguments],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def __call__(self, *arguments: str, **changes: str) -> Ran:
        """Run it to its end, with `changes` to the settings."""
        self.env |= changes
        process = self.start(*arguments)
        out, err = process.communicate(timeout=60)
        ran = Ran(process.returncode, out, err)
        assert "Traceback" not in ran.text
        for name in ("RUNPOD_API_KEY", "HF_TOKEN", "SERVE_API_KEY", "LLM_API_KEY", "WORKER_UPLOAD_TOKEN"):
            assert self.env.get(name, "\0") not in ran.text
        return ran


@pytest.fixture
def deploy(runpod, tmp_path):
    """The program, pointed at the stand-in, with what a user must set and no more."""
    settings = {
        "RUNPOD_API_URL": runpod.url,
        "RUNPOD_GRAPHQL_URL": runpod.graphql_url,
        "RUNPOD_API_KEY": KEY,
        "DEPLOY_IMAGE": IMAGE,
    }
    return Deploy(tmp_path, settings)
