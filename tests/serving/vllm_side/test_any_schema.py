"""Structured outputs: what vLLM's own check takes with the kit's module, in the engine's environment."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.serving import ROOT

ENGINE_PYTHON = ROOT / ".venv-engine" / "bin" / "python"
MIDDLEWARE = ROOT / "serving" / "vllm_side" / "middleware"


@pytest.mark.engine
def test_a_limit_that_cannot_be_enforced_is_left_out_and_a_schema_that_makes_no_sense_is_refused():
    script = Path(__file__).parent / "inside" / "schemas_in_engine.py"
    command = [str(ENGINE_PYTHON), "-W", "ignore", str(script), str(MIDDLEWARE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["named"], "vLLM ends answers with the backend auto now: name none, and this module may go"
    refused = {name for name, verdict in said["before"].items() if verdict != "taken"}
    assert refused == set(said["before"]) - {"plain"}
    assert said["after"].pop("nonsense") != "taken"
    assert set(said["after"].values()) == {"taken"}
