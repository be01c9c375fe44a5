"""`python -m serving chat` asks this machine's own server, wherever SERVE_* put it, and gives its key to no other."""

import subprocess
import sys

import pytest

from serving.commands.chat import client_variables
from serving.settings import ServeSettings
from tests.support import fake_vllm
from tests.support.serving import ROOT, Serve, clean_environment

H100 = "NVIDIA H100 80GB HBM3"


def told(tmp_path, text):
    (tmp_path / ".env").write_text(text)
    return client_variables(ServeSettings.load(tmp_path / ".env"))


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    import os

    for name in os.environ:
        if name.startswith(("SERVE_", "LLM_", "VLLM_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        ("", {"LLM_BASE_URL": "http://127.0.0.1:8000/v1"}),
        ("SERVE_PORT=8123", {"LLM_BASE_URL": "http://127.0.0.1:8123/v1"}),
        ("SERVE_HOST=0.0.0.0\nSERVE_API_KEY=k", {"LLM_BASE_URL": "http://127.0.0.1:8000/v1", "LLM_API_KEY": "k"}),
        ("VLLM_API_KEY=k", {"LLM_BASE_URL": "http://127.0.0.1:8000/v1", "LLM_API_KEY": "k"}),
        ("LLM_BASE_URL=http://localhost:9001/v1\nSERVE_API_KEY=k", {"LLM_API_KEY": "k"}),
        ("LLM_BASE_URL=https://api.example.com/v1\nSERVE_API_KEY=k", {}),
        ("LLM_BASE_URL=http://127.0.0.1:9001/v1\nSERVE_PORT=8000\nSERVE_API_KEY=k", {}),
        ("SERVE_API_KEYS_FILE=keys.json", {"LLM_BASE_URL": "http://127.0.0.1:8000/v1"}),
    ],
)
def test_the_client_is_told_what_the_servers_variables_say(tmp_path, text, variables):
    assert told(tmp_path, text + "\n") == variables


def test_the_printed_question_is_answered_with_the_key_in_the_env_file_alone(tmp_path):
    (tmp_path / ".env").write_text("SERVE_API_KEY=hush-hush\n")
    settings = {"SERVE_ENGINE": str(fake_vllm.install(tmp_path)), "SERVE_GPUS": f"1x {H100}", "PYTHONPATH": str(ROOT)}
    server = Serve(settings, command=(sys.executable, "-m", "serving", "serve"), cwd=tmp_path)
    try:
        server.wait_for("  ask ")
        question = next(line for line in server.output if line.startswith("  ask ")).removeprefix("  ask ")
        env = clean_environment(PYTHONPATH=str(ROOT))
        done = subprocess.run(
            ["bash", "-c", question], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr.count("Error")) == (0, 0), done.stderr
        assert done.stdout.strip()
        assert "hush" not in question + "\n".join(server.output)
    finally:
        server.close()
