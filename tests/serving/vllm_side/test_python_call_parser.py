"""The kit's tool parser inside vLLM: loaded as a plugin by vLLM's own code, in the engine's environment."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.serving.vllm_side.inside.answers import CALLS, TEXTS
from tests.support.serving import ROOT

PLUGIN = ROOT / "serving" / "vllm_side" / "tool_parser" / "python_call_parser.py"
ENGINE_PYTHON = ROOT / ".venv-engine" / "bin" / "python"


@pytest.mark.engine
def test_vllm_reads_the_same_whole_and_streamed():
    script = Path(__file__).parent / "inside" / "read_in_engine.py"
    command = [str(ENGINE_PYTHON), "-W", "ignore", str(script), str(PLUGIN), "7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"answers": len(TEXTS) + len(CALLS), "wrong": []}
