"""The kit's tool parser inside vLLM: loaded as a plugin by vLLM's own code, in the engine's environment."""

import pytest

from tests.serving.vllm_side.inside import run_inside
from tests.serving.vllm_side.inside.answers import CALLS, TEXTS
from tests.support.serving import ROOT

PLUGIN = ROOT / "serving" / "vllm_side" / "tool_parser" / "python_call_parser.py"


@pytest.mark.engine
def test_vllm_reads_the_same_whole_and_streamed():
    assert run_inside("read_in_engine.py", PLUGIN, "7") == {"answers": len(TEXTS) + len(CALLS), "wrong": []}
