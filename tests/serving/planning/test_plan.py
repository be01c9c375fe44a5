"""The plan: what is chosen on which hardware, and that what it says adds up."""

import itertools
import re

import pytest

from serving.commands.plan import JSON_KEYS, as_json
from serving.engine.command import plan_arguments, plan_environment
from serving.errors import ConfigurationError
from serving.hardware.gpu import Gpu, Hardware
from serving.hardware.parse import parse_gpus
from serving.model.gemma3 import FAMILY, shipped
from serving.planning.plan import PlanRequest, make_plan
from serving.units import GIB

GEMMA_27B = FAMILY[0]


def plan(gpus, model=GEMMA_27B, **wishes):
    return make_plan(model, parse_gpus(gpus), PlanRequest(**wishes))


def argument(found, name):
    arguments = plan_arguments(found)
    return arguments[arguments.index(name) + 1]


# Published figures for vLLM 0.32 with 2,048 batched tokens and 128 sequences: KV GiB on each GPU, requests at once of 8k
# and 32k tokens.
@pytest.mark.parametrize(
    ("gpus", "precision", "tensor", "kv_gib", "at_8k", "at_32k"),
    [
        ("1x 79.2GiB sm80", "bf16", 1, 19.5, 6.6, 4.0),
        ("1x 79.2GiB sm90", "fp8", 1, 43.5, 14.6, 9.0),
        ("1x 79.2GiB sm90", "int4", 1, 55.1, 18.5, 11.4),
        ("1x 93.1GiB sm90", "bf16", 1, 32.3, 10.9, 6.7),
        ("1x 94.9GiB sm120", "bf16", 1, 33.9, 11.4, 7.0),
        ("1x 139.8GiB sm90", "bf16", 1, 75.3, 25.3, 15.5),
        ("1x 178.3GiB sm100", "bf16", 1, 110.7, 37.2, 22.8),
        ("1x 44.5GiB sm89", "fp8", 1, 11.6, 3.9, 2.4),
        ("1x 44.5GiB sm89", "int4", 1, 23.2, 7.8, 4.8),
        ("1x 39.4GiB sm80", "fp8", 1, 6.9, 2.3, 1.4),
        ("1x 39.4GiB sm80", "int4", 1, 18.5, 6.2, 3.8),
        ("1x 31.4GiB sm120", "int4", 1, 11.1, 3.7, 2.3),
        ("2x 22GiB sm89", "int4", 2, 10.1, 6.8, 4.2),
        ("2x 23.6GiB sm86", "fp8", 2, 5.7, 3.9, 2.4),
        ("2x 31.4GiB sm120", "fp8", 2, 12.9, 8.7, 5.3),
        ("2x 39.4GiB sm80", "bf16", 2, 8.3, 5.6, 3.4),
        ("2x 44.5GiB sm89", "bf16", 2, 13.0, 8.7, 5.4),
        ("2x 79.2GiB sm90", "bf16", 2, 44.9, 30.2, 18.5),
        ("2x 94.9GiB sm120", "bf16", 2, 59.4, 39.9, 24.5),
        ("4x 22GiB sm89", "bf16", 4, 5.1, 6.9, 4.2),
        ("4x 23.6GiB sm86", "bf16", 4, 6.6, 8.9, 5.4),
        ("4x 44.5GiB sm89", "bf16", 4, 25.8, 34.7, 21.3),
        ("4x 79.2GiB sm90", "bf16", 4, 57.8, 77.6, 47.6),
    ],
)
def test_memory_and_concurrency_are_the_published_ones(gpus, precision, tensor, kv_gib, at_8k, at_32k):
    found = plan(gpus, precision=precision, tensor_parallel_size=tensor)
    assert found.memory_gib["kv_cache"] == pytest.approx(kv_gib, abs=0.06)
    assert found.concurrency[8192] == pytest.approx(at_8k, rel=0.02)
    assert found.concurrency[32_768] == pytest.approx(at_32k, rel=0.02)


@pytest.mark.parametrize(
    ("gpus", "precision", "tensor", "data", "least"),
    [
        ("1x H100", "bf16", 1, 1, 131_072),
        ("2x H100", "bf16", 2, 1, 131_072),
        ("3x H100", "bf16", 2, 1, 131_072),  # 3 does not divide the heads
        ("3x B200", "bf16", 1, 3, 131_072),  # three copies lose little against sharing
        ("1x L40S", "fp8", 1, 1, 110_000),
        ("1x RTX 5090", "int4", 1, 1, 105_000),
        ("2x L4", "fp8", 2, 1, 65_000),
        ("4x L4", "bf16", 4, 1, 131_072),
        ("1x A100 40GB", "fp8", 1, 1, 50_000),
        ("1x 79.2GiB sm90 free=40GiB", "fp8", 1, 1, 80_000),
        ("1x NVIDIA H100 80GB HBM3 MIG 3g.40gb", "fp8", 1, 1, 50_000),
        ("2x NVIDIA H100 80GB HBM3 MIG 3g.40gb", "fp8", 1, 1, 50_000),  # slices cannot share a model
        ("1x H100, 2x T4", "bf16", 1, 1, 131_072),
        ("1x H100, 1x L4", "bf16", 1, 1, 131_072),
        ("1x Something New 96GiB", "bf16", 1, 1, 131_072),
    ],
)
def test_the_best_precision_and_layout_that_fit_are_chosen(gpus, precision, tensor, data, least):
    found = plan(gpus)
    assert (found.fits, found.precision) == (True, precision)
    assert (found.tensor_parallel_size, found.data_parallel_size) == (tensor, data)
    assert least <= found.max_model_len <= 131_072


def test_the_arguments_are_those_of_vllm_serve():
    assert plan_arguments(plan("3x B200", text_only=True)) == (
        "google/gemma-3-27b-it",
        *("--dtype", "bfloat16"),
        *("--tensor-parallel-size", "1"),
        *("--data-parallel-size", "3"),
        *("--max-model-len", "131072"),
        *("--max-num-batched-tokens", "2048"),
        *("--max-num-seqs", "128"),
        *("--gpu-memory-utilization", "0.92"),
        "--language-model-only",
    )


def test_unused_gpus_are_hidden_from_vllm():
    assert plan_environment(plan("2x H100")) == {}
    assert plan_environment(plan("3x H100"))["CUDA_VISIBLE_DEVICES"] == "0,1"
    busy_first = plan("1x H100 free=10GiB, 1x H100")
    assert plan_environment(busy_first) == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1"}
    assert "1 of 2 GPUs stay unused" in busy_first.reason


def test_memory_that_others_hold_is_not_planned_with():
    found = plan("1x 79.2GiB sm90 free=40GiB")
    share = float(argument(found, "--gpu-memory-utilization"))
    assert share * 79.2 < 40
    assert found.memory_gib["other_processes"] == pytest.approx(39.2, abs=0.01)
    assert sum(found.memory_gib.values()) == pytest.approx(79.2, abs=0.05)


def test_gpus_of_different_kinds_share_a_model_only_where_nothing_else_fits():
    alone = plan("1x H100, 1x L40S")
    assert [gpu.name for gpu in alone.gpus] == ["NVIDIA H100 80GB HBM3"]
    together = plan("1x L4, 1x RTX 3090")
    assert together.tensor_parallel_size == 2
    assert "They differ" in together.reason


def test_a_gpu_without_bfloat16_computes_in_float32_and_says_so():
    small = plan("1x T4", shipped("google/gemma-3-1b-it"))
    assert (small.precision, argument(small, "--dtype")) == ("fp32", "float32")
    assert "compute capability 8.0" in small.reason
    large = plan("4x T4")
    assert not large.fits
    assert "float32 (there is no bfloat16 before compute capability 8.0)" in large.reason
    asked = plan("1x T4", precision="bf16")
    assert "has compute capability 7.5" in asked.reason
    assert "needs 7.5 or newer" in plan("1x V100 32GB").reason


def test_gpus_with_bfloat16_come_before_many_without():
    found = plan("8x T4, 1x L4", FAMILY[3])
    assert (found.precision, {gpu.name for gpu in found.gpus}) == ("bf16", {"NVIDIA L4"})


def test_fp8_before_capability_8_9_is_said_to_be_for_the_weights_alone():
    assert "no fp8 arithmetic" in plan("1x A100 40GB").reason
    assert "no fp8 arithmetic" not in plan("1x L40S").reason


def test_without_a_gpu_the_cpu_engine_is_planned_for_small_models_only():
    small = plan("", shipped("google/gemma-3-270m-it"))
    assert (small.fits, small.precision, small.max_model_len) == (True, "fp32", 32_768)
    assert argument(small, "--kv-cache-memory-bytes") == str(GIB)
    assert "--enforce-eager" in plan_arguments(small)
    assert plan_environment(small) == {"VLLM_CPU_KVCACHE_SPACE": "1"}
    large = plan("")
    assert large.reason.startswith("There is no GPU")


@pytest.mark.parametrize(
    ("gpus", "wishes", "nearest"),
    [
        ("1x L4", {}, "SERVE_CONTEXT=15360 (int4)"),
        ("1x L4", {"text_only": False}, "2x NVIDIA L4 (fp8)"),
        ("1x L40S", {"precision": "bf16"}, "SERVE_PRECISION=fp8"),
        ("1x A100 40GB", {"context": 131_072, "precision": "fp8"}, "SERVE_PRECISION=int4"),
        ("1x T4", {}, "SERVE_MODEL=google/gemma-3-1b-it (fp32"),
        ("1x RTX 3090", {"context": 131_072}, "SERVE_MODEL=google/gemma-3-12b-it (int4, 131,072 tokens)"),
        ("1x 10GiB sm86", {}, "4x GPU of 10 GiB (int4)"),
    ],
)
def test_where_nothing_fits_the_nearest_thing_that_would_is_named(gpus, wishes, nearest):
    found = plan(gpus, **wishes)
    assert not found.fits
    assert any(nearest in alternative for alternative in found.alternatives), found.alternatives
    assert found.alternatives[0] in found.reason


def test_every_alternative_context_fits_when_it_is_asked_for():
    for gpus in ("1x L4", "1x RTX 3090", "1x A10"):
        for alternative in plan(gpus, context=131_072).alternatives:
            asked = dict(re.findall(r"SERVE_(CONTEXT|TEXT_ONLY)=(\d+)", alternative))
            if asked:
                wishes = {"context": int(asked.get("CONTEXT", 131_072)), "text_only": "TEXT_ONLY" in asked}
                assert plan(gpus, **wishes).fits, (gpus, alternative)


@pytest.mark.parametrize(
    ("wishes", "changed"),
    [
        ({"max_num_batched_tokens": 8192}, {"max_num_batched_tokens": 8192}),
        ({"max_num_seqs": 16}, {"max_num_seqs": 16}),
        ({"max_num_seqs": 4096}, {"max_num_seqs": 4096, "max_num_batched_tokens": 4096}),
        ({"max_num_batched_tokens": 64}, {"max_num_seqs": 64}),
        ({"max_model_len": 9000}, {"max_model_len": 9000}),
        ({"tensor_parallel_size": 1}, {"tensor_parallel_size": 1, "data_parallel_size": 1}),
    ],
)
def test_what_the_user_set_is_kept(wishes, changed):
    found = plan("2x H200", **wishes)
    assert {name: getattr(found, name) for name in changed} == changed


def test_a_larger_batch_an_fp8_cache_and_no_hybrid_manager_change_the_capacity():
    tuned = plan("1x H100").kv_cache_tokens
    assert plan("1x H100", kv_cache_dtype="fp8").kv_cache_tokens > 1.9 * tuned
    assert plan("1x H100", hybrid=False).kv_cache_tokens < tuned / 4
    stock = plan("1x H100", context=8192, max_num_batched_tokens=8192, max_num_seqs=1024)
    assert (stock.precision, stock.max_model_len < 131_072) == ("bf16", True)
    assert plan("1x H100", gpu_memory_utilization=0.85).kv_cache_tokens < tuned
    assert plan("1x H100", enforce_eager=True).kv_cache_tokens > tuned


def test_a_share_that_is_not_free_does_not_fit():
    found = plan("1x H100 free=40GiB", gpu_memory_utilization=0.9)
    assert not found.fits
    assert "SERVE_GPU_MEMORY_UTILIZATION=0.9" in found.reason


@pytest.mark.parametrize(
    ("model", "wishes", "said"),
    [
        (GEMMA_27B, {"dtype": "float16"}, "SERVE_DTYPE='float16'"),
        (GEMMA_27B, {"max_model_len": 200_000}, "at most 131072 tokens"),
        (GEMMA_27B, {"tensor_parallel_size": 3}, "1, 2, 4, 8, 16, 32"),
        (GEMMA_27B, {"max_num_seqs": 64, "max_num_batched_tokens": 32}, "at least SERVE_MAX_NUM_SEQS=64"),
        (FAMILY[3], {"precision": "int4"}, "there is bf16 alone"),
        (shipped("gaunernst/gemma-3-27b-it-int4-awq"), {"precision": "bf16"}, "there is int4 alone"),
    ],
)
def test_wishes_that_no_hardware_meets_are_refused_in_one_sentence(model, wishes, said):
    with pytest.raises(ConfigurationError, match="is not allowed") as caught:
        plan("2x H100", model, **wishes)
    assert said in str(caught.value)


def test_a_wish_beyond_the_models_own_length_is_cut_and_said():
    found = plan("1x H100", shipped("google/gemma-3-1b-it"), context=100_000)
    assert found.max_model_len == 32_768
    assert "The wish of 100,000 is more than that" in found.reason


def test_more_gpus_than_there_are_do_not_fit():
    found = plan("1x H100", tensor_parallel_size=2)
    assert not found.fits
    assert "SERVE_TENSOR_PARALLEL_SIZE" in found.reason


def test_a_named_quantised_checkpoint_is_the_one_that_is_planned():
    found = plan("1x H100", shipped("gaunernst/gemma-3-27b-it-int4-awq"))
    assert (found.precision, found.checkpoint) == ("int4", "gaunernst/gemma-3-27b-it-int4-awq")
    assert not found.gated
    assert plan("1x H100").gated


def test_the_summary_is_one_line():
    assert plan("2x B200").summary == (
        "Plan: google/gemma-3-27b-it in bf16 on 2 GPUs (2 copies), 131,072 tokens a request; the KV cache holds "
        f"{plan('2x B200').kv_cache_tokens:,} tokens, or 74.4 requests of 8,192."
    )
    short = plan("", FAMILY[4], max_model_len=512).summary
    assert "google/gemma-3-270m-it in fp32 on the CPU, 512 tokens a request" in short
    assert "\n" not in short


def test_json_has_every_key_whether_it_fits_or_not():
    for gpus in ("1x H100", "1x L4", ""):
        found = as_json(plan(gpus))
        assert tuple(found) == JSON_KEYS
    assert {found[key] for key in JSON_KEYS[2:]} == {None}
    assert found["fits"] is False


def test_any_box_gets_a_plan_or_a_reason():
    """Sizes, capabilities, counts and what is free, in every combination; what a plan says must add up."""
    for size, capability, count, free in itertools.product(
        (1, 8, 23.6, 48, 192),
        (None, (7, 5), (8, 0), (12, 1)),
        (1, 2, 3, 8),
        (0.0, 0.4, 1.0),
    ):
        total = int(size * GIB)
        gpu = Gpu("GPU", total, int(total * free), capability)
        for model in (GEMMA_27B, FAMILY[3]):
            found = make_plan(model, Hardware((gpu,) * count, source="given"), PlanRequest())
            assert found.reason
            if not found.fits:
                continue
            assert found.tensor_parallel_size * found.data_parallel_size <= count
            assert model.heads % found.tensor_parallel_size == 0
            assert min(32_768, model.max_model_len) <= found.max_model_len <= model.max_model_len
            assert found.kv_cache_tokens >= found.max_model_len
            assert sum(found.memory_gib.values()) <= size + 0.1
            assert float(argument(found, "--gpu-memory-utilization")) * total <= gpu.free_bytes
