"""Structured outputs: what vLLM's own check takes with the kit's module, in the engine's environment."""

import pytest

from tests.serving.vllm_side.inside import MIDDLEWARE, run_inside


@pytest.mark.engine
def test_a_limit_that_cannot_be_enforced_is_left_out_and_a_schema_that_makes_no_sense_is_refused():
    said = run_inside("schemas_in_engine.py", MIDDLEWARE)
    assert said["named"], "vLLM ends answers with the backend auto now: name none, and this module may go"
    refused = {name for name, verdict in said["before"].items() if verdict != "taken"}
    assert refused == set(said["before"]) - {"plain"}
    assert said["after"].pop("nonsense") != "taken"
    assert set(said["after"].values()) == {"taken"}
