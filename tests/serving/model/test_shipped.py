"""The shipped families: every figure equals vLLM's own answer about the same configuration, kept as a fixture."""

import json
from pathlib import Path

import pytest

from serving.hardware.parse import parse_gpus
from serving.model.config_json import from_config
from serving.model.description import Files
from serving.model.resolve import resolve
from serving.model.shipped import MEMBERS, shipped
from serving.planning.plan import PlanRequest, make_plan

# One configuration a line, with what `vllm_side/describe/describe_model.py` printed of it.
DESCRIBED = [
    json.loads(line) for line in Path(__file__).with_name("described.jsonl").read_text(encoding="utf-8").splitlines()
]
SHIPPED = [item for item in DESCRIBED if shipped(item["name"])]


def described(item, files=None):
    return from_config(item["config"], item["name"], files or Files(), ask=lambda config, name: item["described"])


def layers(facts):
    return {(item.kind, item.count, item.heads, item.head_dim, item.window) for item in facts.kv_layers}


@pytest.mark.parametrize("item", SHIPPED, ids=lambda item: item["name"])
def test_a_shipped_model_is_what_vllm_makes_of_its_configuration(item):
    ours, theirs = shipped(item["name"]), described(item)
    if ours.family.name != "Gemma 3":  # whose own configuration vLLM is not asked about, since it is computed
        assert layers(ours) == layers(theirs)
        assert ours.buffer_bytes == pytest.approx(theirs.buffer_bytes, rel=0.001)
    for field in ("heads", "hidden", "intermediate", "vocab"):
        assert getattr(ours, field) == getattr(theirs, field), field
    checkpoint = ours.checkpoint(theirs.checkpoints[0].precision)
    assert checkpoint.weight_bytes == pytest.approx(theirs.checkpoints[0].weight_bytes, rel=0.01)


def test_every_member_of_a_family_can_be_named_and_planned():
    for facts in MEMBERS:
        assert shipped(facts.name) is facts
        assert shipped(facts.name.lower()) is facts
        assert make_plan(facts, parse_gpus("8x H200"), PlanRequest()).fits
        for checkpoint in facts.checkpoints:
            assert resolve(checkpoint.name).checkpoints[0].precision in {item.precision for item in facts.checkpoints}


def test_the_12b_and_gemma_4_fit_where_their_quantised_checkpoints_do():
    assert make_plan(resolve("google/gemma-3-12b-it"), parse_gpus("1x L4"), PlanRequest()).fits
    found = make_plan(resolve("google/gemma-4-31b-it"), parse_gpus("1x L40S"), PlanRequest())
    assert (found.fits, found.precision) == (True, "fp8")
