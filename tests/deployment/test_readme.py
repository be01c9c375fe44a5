"""The README's deploy section, from top to bottom, as a newcomer types it, against the stand-in."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import threading
import time

import pytest

from tests.deployment.conftest import IMAGE, ROOT
from tests.deployment.fake_calls import KEY
from tests.support.serving import clean_environment

DEPLOY = (ROOT / "runpod" / "README.md").read_text(encoding="utf-8")
SERVING = (ROOT / "serving" / "README.md").read_text(encoding="utf-8")


def commands(page: str, heading: str) -> list[str]:
    """Return the shell blocks of a section."""
    section = re.split(r"^## ", page.partition(f"\n## {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    return [
        re.sub(r"^ +", "", block, flags=re.MULTILINE) for block in re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    ]


@pytest.fixture
def checkout(tmp_path):
    """The repository as links, so that a developer's own `.env` is neither read nor written."""
    for entry in ROOT.iterdir():
        if not entry.name.startswith(".env") and entry.name != ".git":
            (tmp_path / entry.name).symlink_to(entry)
    return tmp_path


def run(script: str, folder, environment, answer: str) -> str:
    """Run a shell script as from a keyboard, where every question is answered the same; return what it printed."""
    keyboard, terminal = pty.openpty()
    done = threading.Event()

    def type_answers() -> None:
        while not done.is_set():
            os.write(keyboard, answer.encode() + b"\n")
            time.sleep(0.2)

    process = subprocess.Popen(
        ["bash", "-ec", script],
        cwd=folder,
        env=environment | {"MAKEFLAGS": "-o .venv/.installed"},  # the links lead to a finished .venv
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    typist = threading.Thread(target=type_answers, daemon=True)
    typist.start()
    try:
        out, _ = process.communicate(timeout=120)
    finally:
        done.set()
        typist.join(5)
        os.close(terminal)
        os.close(keyboard)
    assert process.returncode == 0, out
    return out


def test_the_deploy_section_works_from_top_to_bottom(checkout, runpod):
    section = DEPLOY.partition("\n## Deploy\n")[2].partition("\n## ")[0]
    lines = [
        line.strip() for block in re.findall(r"```ini\n(.*?)```", section, re.DOTALL) for line in block.splitlines()
    ]
    names = [line.partition("=")[0] for line in lines if "=" in line]
    values = {"RUNPOD_API_KEY": KEY, "DEPLOY_IMAGE": IMAGE, "DEPLOY_HF_SECRET": "hf_token"}
    assert names == list(values)
    settings = {**values, "RUNPOD_API_URL": runpod.url}
    (checkout / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))

    docker = checkout / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text('#!/bin/sh\necho "docker $*"\n')
    docker.chmod(0o755)
    environment = clean_environment(PATH=f"{docker.parent}:{os.environ['PATH']}")

    blocks = commands(DEPLOY, "Deploy")
    change = "echo DEPLOY_WORKERS_MAX=2 >>.env && make deploy"  # what a rollback takes back
    blocks.insert(next(number for number, block in enumerate(blocks) if "rollback" in block), change)
    out = run("\n".join(blocks), checkout, environment, "y")

    assert f"docker push {IMAGE}" in out
    assert out.count("Paris") >= 2  # the deploy's own question, and the client's
    assert "Created endpoint gemma3-27b" in out
    assert "Nothing is left that costs money." in out
    assert runpod.calls("PATCH") == [
        {"workers": {"min": 0, "max": 2, "idleTimeout": 300}},
        {"workers": {"min": 0, "max": 3, "idleTimeout": 300}},
    ]
    assert runpod.endpoints == {}
    assert KEY not in out


def test_no_is_an_answer(checkout, runpod):
    (checkout / ".env").write_text(f"RUNPOD_API_KEY={KEY}\nDEPLOY_IMAGE={IMAGE}\nRUNPOD_API_URL={runpod.url}\n")
    out = run("make deploy || test $? = 2", checkout, clean_environment(), "n")

    assert "Nothing was changed." in out
    assert runpod.endpoints == {}


def test_the_exports_work(checkout):
    (block,) = commands(SERVING, "More machines")
    run(block, checkout, clean_environment(SERVE_API_KEY="a-key-of-the-server"), "")

    for name in (
        "values.yaml",
        "service.yaml",
        "router.sh",
        "gemma-vllm-kit.service",
        "prometheus.yml",
        "dashboard.json",
    ):
        text = (checkout / name).read_text()
        assert text
        assert "a-key-of-the-server" not in text
