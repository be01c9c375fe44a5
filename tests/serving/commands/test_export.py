"""Every export says what `make serve` would run, in a form that its tool accepts, without a secret."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.serving import clean_environment

ROOT = Path(__file__).parents[3]
KEY, TOKEN = "a-key-of-the-server", "hf_0123456789abcdef"
H100 = "1x NVIDIA H100 80GB HBM3"
TOOLS = ("skypilot==0.14.1", "vllm-router==0.1.17")

# What the chart's values.schema.json (version 0.1.12) and its engine template know.
CHART_MODEL = {
    "name", "repository", "tag", "modelURL", "replicaCount", "requestCPU", "requestMemory", "requestGPU", "pvcStorage",
    "pvcAccessMode", "hf_token", "env", "vllmConfig", "shmSize", "chatTemplate", "chatTemplateConfigMap", "extraVolumes",
    "extraVolumeMounts",
}  # fmt: skip


def export(*arguments: str, status: int = 0, **settings: str) -> str:
    environment = clean_environment(**{"SERVE_API_KEY": KEY, "HF_TOKEN": TOKEN, **settings})
    done = subprocess.run(
        [sys.executable, "-m", "serving", "export", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stderr
    assert KEY not in done.stdout + done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if status == 0 else done.stderr


@pytest.fixture
def engine(tmp_path):
    program = tmp_path / "vllm"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return program


@pytest.fixture(scope="module")
def served():
    """What `make serve` would run on one H100, after the model."""
    done = subprocess.run(
        [sys.executable, "-m", "serving", "serve", "--dry-run"],
        cwd=ROOT,
        env=clean_environment(SERVE_GPUS=H100, SERVE_ENGINE="/bin/true", SERVE_UI="0"),
        capture_output=True,
        text=True,
        check=True,
    )
    return shlex.split(done.stdout)[2:]


def flags(words: list[str]) -> dict[str, str]:
    """Return flags and their values."""
    pairs = zip(words, [*words[1:], "--"], strict=True)
    return {word: "" if value.startswith("--") else value for word, value in pairs if word.startswith("--")}


CODE = {path.name for path in (ROOT / "serving" / "vllm_side" / "tool_parser").glob("*.py")} | {
    "media_guard.py",
    "any_schema.py",
}


def mounted(name: str) -> str:
    """Return where a file of this checkout stands in what is exported."""
    return f"/etc/gemma-vllm-kit/{name}"


def test_helm_runs_the_same_model_with_the_same_flags(served):
    text = export("helm", "--gpus", H100, "--replicas", "2")
    values = yaml.safe_load(text)
    (model,) = values["servingEngineSpec"]["modelSpec"]

    assert model.keys() <= CHART_MODEL
    assert model["modelURL"] == served[0]
    assert model["replicaCount"] == 2
    assert model["requestGPU"] == 1
    assert model["vllmConfig"]["enablePrefixCaching"] is True
    by_the_chart = {"--host": "127.0.0.1", "--port": "8000", "--chat-template": flags(served)["--chat-template"]}
    parser = {"--tool-parser-plugin": mounted("python_call_parser.py")}
    assert flags(model["vllmConfig"]["extraArgs"]) | by_the_chart == flags(served) | parser
    assert "bos_token" in model["chatTemplateConfigMap"]
    (volume,), (mount,) = model["extraVolumes"], model["extraVolumeMounts"]
    assert volume["name"] == mount["name"]
    assert mount["mountPath"] == str(Path(mounted("any")).parent)
    (line,) = [line for line in text.splitlines() if f"kubectl create configmap {volume['configMap']['name']}" in line]
    files = [word.removeprefix("--from-file=") for word in shlex.split(line) if word.startswith("--from-file=")]
    assert {Path(file).name for file in files} == CODE
    assert all(Path(file).is_file() for file in files)
    assert values["servingEngineSpec"]["vllmApiKey"] == {"secretName": "gemma-vllm-kit", "secretKey": "api-key"}


def test_skypilot_runs_the_same_model_with_the_same_flags(served):
    task = yaml.safe_load(export("skypilot", "--gpus", H100))
    words = shlex.split(task["run"])

    assert words[:3] == ["vllm", "serve", served[0]]
    there = {"--chat-template": mounted("gemma3.jinja"), "--tool-parser-plugin": mounted("python_call_parser.py")}
    assert flags(words) == flags(served) | {"--host": "0.0.0.0"} | there
    assert set(task["file_mounts"]) == {mounted("gemma3.jinja"), *map(mounted, CODE)}
    assert all(Path(here).is_file() for here in task["file_mounts"].values())
    assert task["resources"]["accelerators"] == {"H100": 1}
    assert task["service"]["readiness_probe"]["initial_delay_seconds"] >= 1200
    assert task["secrets"] == {"VLLM_API_KEY": None, "HF_TOKEN": None}


def test_systemd_runs_the_same_model_with_the_same_flags(served, engine):
    unit = export("systemd", "--gpus", H100, SERVE_ENGINE=str(engine))
    (start,) = [line.removeprefix("ExecStart=") for line in unit.splitlines() if line.startswith("ExecStart=")]
    words = shlex.split(start)

    assert words[0] == str(engine)
    assert words[2] == served[0]
    assert flags(words) == flags(served) | {"--middleware": "api_key_guard.ApiKeyGuard"}
    assert "EnvironmentFile=/etc/gemma-vllm-kit.env" in unit


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_systemd_accepts_the_unit(tmp_path, engine):
    unit = tmp_path / "gemma-vllm-kit.service"
    export("systemd", "--gpus", H100, "--output", str(unit), SERVE_ENGINE=str(engine))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("router",), 2, "--url is missing"),
        (("router", "--url", "10.0.0.5:8000"), 2, "must be like http://10.0.0.5:8000"),
        (("helm", "--gpus", "1x NVIDIA L4"), 3, "What would fit"),
        (("helm", "--gpus", "nonsense"), 2, "--gpus='nonsense' is not allowed"),
        (("helm", "--gpus", H100, "--replicas", "0"), 2, "--replicas 0 is not allowed"),
        (("skypilot", "--gpus", "1x 79.2GiB sm90"), 2, "SkyPilot takes one kind of"),
        (("helm", "--gpus", H100, "--output", "/nowhere/values.yaml"), 2, "cannot be written"),
        (("helm", "--gpus", ""), 2, "No GPU is here to plan for"),
    ],
)
def test_a_bad_option_is_one_sentence(arguments, status, said):
    assert said in export(*arguments, status=status)


def test_a_service_on_the_internet_needs_a_key():
    done = subprocess.run(
        [sys.executable, "-m", "serving", "export", "skypilot", "--gpus", H100],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "SERVE_API_KEY" in done.stderr


@pytest.mark.slow
def test_skypilot_and_the_router_accept_what_is_written(tmp_path):
    uv, venv = ROOT / ".venv" / "bin" / "uv", tmp_path / "venv"
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, venv], check=True)
    python = venv / "bin" / "python"
    subprocess.run([uv, "pip", "install", "-q", "--python", python, *TOOLS], check=True)
    service, script = tmp_path / "service.yaml", tmp_path / "router.sh"
    export("skypilot", "--gpus", H100, "--replicas", "2", "--output", str(service))
    urls = ("http://10.0.0.5:8000", "http://10.0.0.6:8000")
    export("router", *(word for url in urls for word in ("--url", url)), "--output", str(script))

    check_task = (
        "import json, sys, yaml, sky;"
        "secrets = [('HF_TOKEN', 'x'), ('VLLM_API_KEY', 'y')];"
        "task = sky.Task.from_yaml_config(yaml.safe_load(open(sys.argv[1])), secrets_overrides=secrets);"
        "print(json.dumps([task.service.min_replicas, task.service.readiness_path]))"
    )
    done = subprocess.run(
        [python, "-c", check_task, service],
        env=clean_environment(HOME=str(tmp_path)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [2, "/health"]

    check_command = (
        "import json, sys; from vllm_router.launch_router import parse_router_args;"
        "print(json.dumps(parse_router_args(sys.argv[1:]).worker_urls))"
    )
    words = shlex.split(script.read_text().splitlines()[-1].removeprefix("exec vllm-router"))
    done = subprocess.run([python, "-c", check_command, *words], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == list(urls)


def test_what_belongs_to_this_machine_is_not_exported(tmp_path):
    (tmp_path / ".env").write_text("HF_HOME=/mine\nHF_TOKEN=hf_secret\nNCCL_DEBUG=INFO\nVLLM_API_KEY=secret-key\n")
    done = subprocess.run(
        [sys.executable, "-m", "serving", "export", "skypilot", "--gpus", H100],
        cwd=tmp_path,
        env=clean_environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["envs"]["NCCL_DEBUG"] == "INFO"
    assert not [word for word in ("/mine", "hf_secret", "secret-key") if word in done.stdout + done.stderr]
