"""A RunPod on loopback, and `runpod/deploy.py` run as a user runs it, in a folder with a `.env`."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

from deploy import main
from tests.deployment.fake_calls import KEY
from tests.deployment.fake_runpod import FakeRunpod
from tests.support.serving import clean_environment

ROOT = Path(__file__).parents[2]
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
    """Run the program in `folder`; `env` is what its `.env` says."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder = folder
        self.env = env

    def __call__(self, *arguments: str, **changes: str) -> Ran:
        """Run it to its end, with `changes` to the settings, and check that no secret was shown."""
        self.env |= changes
        self._write()
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, clean_environment(), clear=True),
            mock.patch.object(sys, "stdin", io.StringIO()),
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            status = main(list(arguments))
        ran = Ran(status, out.getvalue(), err.getvalue())
        for name in ("RUNPOD_API_KEY", "HF_TOKEN", "SERVE_API_KEY", "LLM_API_KEY", "WORKER_UPLOAD_TOKEN"):
            assert self.env.get(name, "\0") not in ran.text
        return ran

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start it as a process of its own, and do not wait."""
        self._write()
        return subprocess.Popen(
            [sys.executable, str(ROOT / "runpod" / "deploy.py"), *arguments],
            cwd=self.folder,
            env=clean_environment(HOME=str(self.folder)) | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _write(self) -> None:
        (self.folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in self.env.items()))


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
