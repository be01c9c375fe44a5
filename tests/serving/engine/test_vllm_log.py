"""Reading vLLM's figures back, and comparing them with the plan. The lines are vLLM's own."""

import pytest

from serving.engine.vllm_log import LoggedCapacity, compare_with_log, read_capacity
from serving.hardware.parse import parse_gpus
from serving.model.gemma3 import FAMILY
from serving.planning.plan import PlanRequest, make_plan

ONE_LINE = (
    "(EngineCore pid=41) INFO 11-22 23:30:02 [kv_cache_utils.py:2326] GPU KV cache size: {tokens:,} tokens, "
    "Maximum concurrency for 131,072 tokens per request: 1.58x"
)
CPU_LINE = (
    "(EngineCore pid=9) INFO 11-22 23:30:02 [kv_cache_utils.py:2326] CPU KV cache size: 27,678 tokens, "
    "Maximum concurrency for 2,048 tokens per request: 13.51x"
)
TWO_LINES = (
    "INFO 07-01 16:38:58 [kv_cache_utils.py:716] GPU KV cache size: 47,216 tokens",
    "INFO 07-01 16:38:58 [kv_cache_utils.py:720] Maximum concurrency for 40,960 tokens per request: 1.15x",
)


def planned(gpus="1x H100", **wishes):
    return make_plan(FAMILY[0], parse_gpus(gpus), PlanRequest(**wishes))


def test_one_line_and_two_are_read():
    assert read_capacity([CPU_LINE]) == LoggedCapacity(27_678, 2048, 13.51)
    assert read_capacity(["INFO Loading weights", *TWO_LINES]) == LoggedCapacity(47_216, 40_960, 1.15)
    assert read_capacity(["INFO Available KV cache memory: 19.50 GiB"]) is None


@pytest.mark.parametrize("factor", [1.0, 1.09, 0.91])
def test_within_a_tenth_nothing_is_said(factor):
    plan = planned()
    assert compare_with_log(plan, [ONE_LINE.format(tokens=int(plan.kv_cache_tokens * factor))]) is None


@pytest.mark.parametrize(("factor", "said"), [(1.25, "25% more than"), (0.5, "50% less than")])
def test_beyond_a_tenth_it_is_said(factor, said):
    plan = planned()
    sentence = compare_with_log(plan, [ONE_LINE.format(tokens=int(plan.kv_cache_tokens * factor))])
    assert said in sentence
    assert f"{plan.kv_cache_tokens:,}" in sentence


def test_each_copy_logs_its_own_share():
    plan = planned("2x B200")
    assert plan.data_parallel_size == 2
    assert compare_with_log(plan, [ONE_LINE.format(tokens=plan.kv_cache_tokens // 2)] * 2) is None


def test_a_log_without_figures_is_no_difference():
    assert compare_with_log(planned(), ["INFO nothing of interest"]) is None
