"""The image's Dockerfile, without Docker: what it names exists, and its command starts from what it copies."""

import fnmatch
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path, PurePosixPath

import pytest

from tests.support.worker import ROOT, worker_environment
from worker.settings import WorkerSettings
from worker.volume import BAKED_HUB

DOCKERFILE = ROOT / "runpod" / "Dockerfile"


def instructions():
    """Return (instruction, rest) pairs of the Dockerfile, continuation lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if line and not line.lstrip().startswith("#")]
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines()]


def values(name):
    """Return what follows each instruction of that name."""
    return [rest for instruction, rest in instructions() if instruction == name]


def arguments():
    """Return the build arguments' defaults."""
    return dict(argument.split("=", 1) for argument in values("ARG"))


def ignored(path):
    """Tell whether the build context leaves a path of the repository out: the last rule that matches counts."""
    left_out = False
    for rule in (ROOT / "runpod" / "Dockerfile.dockerignore").read_text().splitlines():
        pattern = rule.lstrip("!").removeprefix("**/")
        parts = PurePosixPath(path).parts
        prefixes = ["/".join(parts[: i + 1]) for i in range(len(parts))]
        if rule and not rule.startswith("#") and any(fnmatch.fnmatch(p, pattern) for p in (*prefixes, *parts)):
            left_out = not rule.startswith("!")
    return left_out


def copied(target):
    """Carry out the COPY instructions into `target`; return the image's last working directory."""
    workdir = PurePosixPath("/")
    for instruction, rest in instructions():
        if instruction == "WORKDIR":
            workdir /= rest
        if instruction == "COPY":
            *sources, place = rest.split()
            for source in sources:
                into = target / str(workdir / place).lstrip("/")
                here = ROOT / source
                assert here.exists(), source
                assert not ignored(source.rstrip("/")), source
                if here.is_dir():
                    shutil.copytree(here, into, ignore=lambda folder, names: [
                        name for name in names if ignored(str((Path(folder) / name).relative_to(ROOT)))
                    ])  # fmt: skip
                else:
                    into.mkdir(parents=True, exist_ok=True)
                    shutil.copy(here, into)
    return workdir


def test_hadolint_has_nothing_to_say():
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, "--no-color", DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_versions_are_those_of_the_kit():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert project["project"]["optional-dependencies"]["engine"] == [f"vllm=={arguments()['VLLM_VERSION']}"]
    assert f"uv=={arguments()['UV_VERSION']}" in pins
    assert "vllm/vllm-openai:v${VLLM_VERSION}" in values("FROM")


def test_the_command_starts_from_what_is_copied(tmp_path):
    (entrypoint,) = (json.loads(value) for value in values("ENTRYPOINT"))
    python, handler = (PurePosixPath(word) for word in entrypoint)
    home = tmp_path / "image"
    copied(home)
    assert python == PurePosixPath("/opt/kit/.venv/bin/python")
    assert any("uv venv" in run and ".venv" in run for run in values("RUN"))
    script = home / str(handler).lstrip("/")
    environment = worker_environment(tmp_path, WORKER_FLUSH_MS="soon")
    run = subprocess.run(
        [sys.executable, script], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 2, run.stderr
    assert "WORKER_FLUSH_MS='soon' is not allowed" in run.stderr


def test_nothing_is_copied_that_is_nobodys_business(tmp_path):
    copied(tmp_path)
    names = {path.name for path in tmp_path.rglob("*")}
    assert not names & {".env", ".git", ".venv", "__pycache__", "tests", "Dockerfile"}


def test_the_token_is_a_secret_of_one_step_and_the_worker_is_not_root():
    assert not [name for name in arguments() if "TOKEN" in name or "KEY" in name]
    assert not [value for value in values("ENV") if "TOKEN" in value]
    assert [run for run in values("RUN") if "type=secret" in run and "HF_TOKEN" in run]
    assert values("USER")[-1] not in {"root", "0"}


def test_ports_and_folders_are_those_of_the_settings():
    settings = WorkerSettings.load(env_file=None)
    assert values("EXPOSE") == [f"{settings.port} {settings.port_health}"]
    assert f"${{PORT:-{settings.port}}}/health" in values("HEALTHCHECK")[0]
    assert [run for run in values("RUN") if f"HF_HUB_CACHE={BAKED_HUB} " in run]
    assert values("STOPSIGNAL") == ["SIGTERM"]


@pytest.mark.parametrize("name", ["Dockerfile", "handler.py"])
def test_the_hub_finds_the_same_files(name):
    assert (ROOT / ".runpod" / name).resolve() == ROOT / "runpod" / name
