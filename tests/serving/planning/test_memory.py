"""The memory estimate against what public logs of real GPUs say."""

import pytest

from serving.model.facts import ModelFacts
from serving.model.gemma3 import FAMILY, QUANTISED_27B, shipped
from serving.planning.kv_cache import kv_layout
from serving.planning.memory import Batch, activation_bytes, weights_bytes
from serving.units import GIB

GEMMA_27B = FAMILY[0]


def left(total_gib, utilization, weights, batch, **how):
    tensor = how.get("tensor_parallel", 1)
    return total_gib * utilization * GIB - weights_bytes(weights, tensor) - activation_bytes(GEMMA_27B, batch, **how)


def test_parameters_of_the_family_are_the_published_ones():
    assert [model.parameters for model in FAMILY] == [
        27_432_406_640,
        12_187_325_040,
        4_300_079_472,
        999_885_952,
        268_098_176,
    ]


def test_weights_take_what_a_log_says():
    """vllm-project/vllm#20341: "Model loading took 51.417 GiB"; #15676, four GPUs: 13.1665 GB each."""
    bf16 = GEMMA_27B.checkpoints[0].weight_bytes
    assert weights_bytes(bf16, 1) / GIB == pytest.approx(51.417, rel=0.005)
    assert weights_bytes(bf16, 4) / GIB == pytest.approx(13.1665, rel=0.03)


def test_quantised_weights_have_the_bytes_that_their_geometry_gives():
    by_name = {checkpoint.name: checkpoint.weight_bytes for checkpoint in QUANTISED_27B}
    assert by_name["RedHatAI/gemma-3-27b-it-FP8-dynamic"] == pytest.approx(29.28e9, rel=0.001)
    assert by_name["RedHatAI/gemma-3-27b-it-quantized.w4a16"] == pytest.approx(16.87e9, rel=0.001)
    assert by_name["gaunernst/gemma-3-27b-it-int4-awq"] == pytest.approx(18.07e9, rel=0.001)


def test_an_h100_class_gpu_with_1024_sequences_leaves_what_a_log_says():
    """vllm-project/vllm#20341, all layers full: 22.34 GiB left, 47,216 tokens, on a GPU of 94 GB with default flags."""
    available = left(93.1, 0.9, GEMMA_27B.checkpoints[0].weight_bytes, Batch(8192, 1024))
    assert available / GIB == pytest.approx(22.34, rel=0.15)
    layout = kv_layout(GEMMA_27B, max_num_batched_tokens=8192, hybrid=False)
    assert layout.capacity(int(available), 131_072) == pytest.approx(47_216, rel=0.15)


def test_an_rtx_5090_fits_the_length_that_was_measured():
    """A public script's auto-fitted length: 120,080 tokens of w4a16 at a share of 0.90."""
    available = left(
        31.4, 0.9, shipped("RedHatAI/gemma-3-27b-it-quantized.w4a16").checkpoints[0].weight_bytes, Batch(2048, 256)
    )
    assert kv_layout(GEMMA_27B).longest(int(available), 131_072) == pytest.approx(120_080, rel=0.15)


def test_two_rtx_3090_leave_what_was_reported():
    """A public report: two RTX 3090 with w4a16 have about 12 GiB of KV cache each."""
    int4 = shipped("RedHatAI/gemma-3-27b-it-quantized.w4a16").checkpoints[0].weight_bytes
    assert left(23.6, 0.92, int4, Batch(2048, 128), tensor_parallel=2) / GIB == pytest.approx(12, rel=0.15)


@pytest.mark.parametrize(
    ("name", "vocab", "hidden", "intermediate", "gib"),
    [("Llama 3.3 70B, two H100", 128_256, 8192, 28_672, 4.84), ("gpt-oss-20b, one H100", 201_088, 2880, 2880, 7.38)],
)
def test_the_sampler_with_1024_sequences_takes_what_h100_logs_say(name, vocab, hidden, intermediate, gib):
    """Peak activation memory of two other models at vLLM's defaults for an H100, from a public table of logs."""
    model = ModelFacts(name, 1, 0, 0, 64, 8, 128, hidden, intermediate, vocab, 131_072, ())
    bare = activation_bytes(model, Batch(1, 512), images=False) - 512 * vocab * 39
    peak = activation_bytes(model, Batch(8192, 1024), images=False) - bare
    assert peak / GIB == pytest.approx(gib, rel=0.15)


def test_stock_flags_are_predicted_not_to_start_with_the_full_context_on_one_h100():
    weights = GEMMA_27B.checkpoints[0].weight_bytes
    stock = kv_layout(GEMMA_27B, max_num_batched_tokens=8192)
    assert not stock.fits(int(left(79.2, 0.92, weights, Batch(8192, 1024))), 131_072)
    tuned = kv_layout(GEMMA_27B, max_num_batched_tokens=2048)
    assert tuned.fits(int(left(79.2, 0.92, weights, Batch(2048, 128))), 131_072)


def test_leaving_images_out_saves_the_tower_at_work():
    batch = Batch(2048, 16)
    assert activation_bytes(GEMMA_27B, batch, images=False) < activation_bytes(GEMMA_27B, batch)
