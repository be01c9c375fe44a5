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

from serving.settings import ServeSettings
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
    """Whether the build context leaves a path of the repository out: the last rule that matches counts."""
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
    pins = [line.split()[0] for line in (ROOT / "constraints.txt").read_text().splitlines()]
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
    environment = worker_environment(tmp_path, WORKER_DRAIN_TIMEOUT="soon")
    run = subprocess.run(
        [sys.executable, script], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 2, run.stderr
    assert "WORKER_DRAIN_TIMEOUT='soon' is not allowed" in run.stderr


def test_the_image_takes_the_worker_and_what_it_imports_alone(tmp_path):
    copied(tmp_path)
    kit = tmp_path / "opt" / "kit"
    assert {path.name for path in kit.iterdir()} == {"pyproject.toml", "constraints.txt", "client", "serving", "runpod"}
    assert {path.name for path in (kit / "runpod").iterdir()} == {"handler.py", "worker"}
    names = {path.name for path in tmp_path.rglob("*")}
    assert not names & {".env", ".git", ".venv", "__pycache__", "tests", "Dockerfile", "deployment", "emulation"}


def test_the_token_is_a_secret_of_one_step_read_the_way_that_every_builder_knows():
    assert not [name for name in arguments() if "TOKEN" in name or "KEY" in name]
    assert not [value for value in values("ENV") if "TOKEN" in value]
    (step,) = [run for run in values("RUN") if "type=secret" in run]
    assert "id=hf_token" in step
    assert "/run/secrets/hf_token" in step
    assert ",env=" not in step  # a front end of 2024 and later alone knows it
    assert "# syntax" not in DOCKERFILE.read_text()


def test_the_worker_is_not_root_and_gets_its_byte_code_from_the_build():
    assert values("USER") == ["10001"]
    assert [run for run in values("RUN") if "useradd" in run and "--uid 10001" in run]
    compiled = " ".join(run for run in values("RUN") if "compileall" in run)
    assert all(name in compiled for name in ("vllm", "torch", "transformers", "client", "serving", "runpod"))


def test_the_pinned_uv_is_the_one_that_runs():
    (step,) = [run for run in values("RUN") if "from=uv" in run]
    (target,) = re.findall(r"target=(\S+)", step)
    assert re.findall(r"(\S*uv) (?:venv|pip)", step) == [target, target]


@pytest.mark.parametrize(
    ("environment", "port"),
    [
        ({}, 8000),
        ({"SERVE_PORT": "9000"}, 9000),
        ({"SERVE_PORT": "9000", "PORT": "9001"}, 9000),
        ({"WORKER_MODE": "queue", "PORT": "9001"}, 8000),
        ({"WORKER_MODE": "load-balancer", "PORT": "9001", "SERVE_PORT": "9000"}, 9001),
        ({"WORKER_MODE": "load-balancer"}, 8000),
    ],
)
def test_the_health_check_asks_the_port_that_vllm_listens_on(tmp_path, environment, port):
    curl = tmp_path / "curl"
    curl.write_text('#!/bin/sh\necho "$@"\n')
    curl.chmod(0o755)
    command = json.loads(values("HEALTHCHECK")[0].partition("CMD ")[2])
    done = subprocess.run(
        command, env=environment | {"PATH": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-1] == f"http://127.0.0.1:{port}/health"


def test_ports_and_folders_are_those_of_the_settings():
    settings = WorkerSettings.load(env_file=None)
    assert values("EXPOSE") == [f"{settings.port} {settings.port_health}"]
    assert settings.port == ServeSettings.model_fields["port"].default
    assert [run for run in values("RUN") if f"HF_HUB_CACHE={BAKED_HUB} " in run]
    assert values("STOPSIGNAL") == ["SIGTERM"]
