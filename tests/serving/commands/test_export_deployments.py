"""What is exported survives a restart: requests end whole before anything is killed, and a reload is one command."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.serving.commands.test_export import H100, KEY, ROOT, TOKEN, export, flags, served  # noqa: F401

SIDE = ROOT / "serving" / "vllm_side"
MOUNT = "/etc/gemma-vllm-kit"


def test_helm_drains_a_pod_before_it_is_killed():
    text = export("helm", "--gpus", H100, SERVE_SHUTDOWN_TIMEOUT="120")
    (line,) = [line for line in text.splitlines() if "kubectl patch" in line]
    words = shlex.split(line.removeprefix("#"))
    spec = json.loads(words[words.index("--patch") + 1])["spec"]["template"]["spec"]
    (container,) = spec["containers"]

    assert words[:4] == [
        "kubectl",
        "patch",
        "deployment",
        "gemma-gemma-deployment-vllm",
    ]  # RELEASE-NAME-deployment-vllm
    assert container["name"] == "vllm"
    (sleep, leaving) = container["lifecycle"]["preStop"]["exec"]["command"]
    assert sleep == "sleep"
    assert spec["terminationGracePeriodSeconds"] > int(leaving) + 120


def test_compose_runs_the_same_model_with_the_same_flags_guarded_and_drained(served):  # noqa: F811
    compose = yaml.safe_load(export("compose", "--gpus", H100, SERVE_SHUTDOWN_TIMEOUT="45"))
    (service,) = compose["services"].values()
    command = service["command"]
    here = [word.replace(MOUNT, str(SIDE)) for word in command]

    assert service["image"].startswith("vllm/vllm-openai:v")
    assert command[0] == served[0]
    assert flags(here) == flags(served) | {
        "--host": "0.0.0.0",
        "--shutdown-timeout": "45",
        "--middleware": "api_key_guard.ApiKeyGuard",
    }
    assert all(Path(word).exists() for word in here if word.startswith(str(SIDE)))
    assert {"VLLM_API_KEY", "HF_TOKEN"} <= set(service["environment"])
    (path,) = [line.partition("=")[2] for line in service["environment"] if line.startswith("PYTHONPATH=")]
    assert all(Path(part.replace(MOUNT, str(SIDE))).is_dir() for part in path.split(":"))
    assert f"{SIDE}:{MOUNT}:ro" in service["volumes"]
    (weights,) = [volume for volume in service["volumes"] if volume.startswith("weights:")]
    assert f"HF_HOME={weights.partition(':')[2]}" in service["environment"]  # where the hub's library keeps them
    assert "weights" in compose["volumes"]
    assert service["ports"] == ["127.0.0.1:8000:8000"]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert "/health" in service["healthcheck"]["test"][-1]
    assert int(service["stop_grace_period"].removesuffix("s")) > 45


def test_compose_gives_the_folder_of_the_keys_and_fills_no_dollar(tmp_path):
    file = tmp_path / "keys.txt"
    file.touch()
    text = export("compose", "--gpus", H100, SERVE_API_KEYS_FILE=str(file), SERVE_EXTRA_ARGS="--seed '$HOME'")
    (service,) = yaml.safe_load(text)["services"].values()
    assert f"{tmp_path}:{MOUNT}/keys:ro" in service["volumes"]
    assert f"SERVE_API_KEYS_FILE={MOUNT}/keys/keys.txt" in service["environment"]
    assert service["command"][-1] == "$$HOME"


def test_systemd_runs_a_fleet_that_a_reload_restarts_without_a_gap(tmp_path):
    unit = export("systemd", "--fleet", SERVE_SHUTDOWN_TIMEOUT="100")
    lines = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line and not line.startswith("#"))
    python, *start = shlex.split(lines["ExecStart"])

    assert start == ["-m", "serving", "fleet"]
    assert shlex.split(lines["ExecReload"]) == [python, "-m", "serving", "reload"]
    assert lines["TimeoutStartSec"] == "infinity"  # which bounds a reload, too
    assert int(lines["TimeoutStopSec"]) > 100
    assert lines["KillMode"] == "mixed"
    if shutil.which("systemd-analyze"):
        file = tmp_path / "gemma-vllm-kit.service"
        file.write_text(unit)
        done = subprocess.run(["systemd-analyze", "verify", str(file)], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("url", ["10.0.0.5:8000", "http://a/v1", "http://a:8000?x=1", "http://u:p@a:8000", "http://"])
def test_a_router_takes_addresses_alone(url):
    assert "must be like http://10.0.0.5:8000" in export("router", "--url", url, status=2)
