"""The memory estimate against what public logs of real GPUs say."""

from dataclasses import replace

import pytest

from serving.hardware.parse import parse_gpus
from serving.model.facts import ModelFacts
from serving.model.gemma3 import FAMILY, QUANTISED_27B, shipped
from serving.planning.kv_cache import kv_layout
from serving.planning.memory import Batch, activation_bytes, weights_bytes
from serving.planning.plan import PlanRequest, make_plan
from serving.units import GIB
from tests.serving.planning.public_logs import LOGS

GEMMA_27B = FAMILY[0]


def left(total_gib, utilization, weights, batch, **how):
    tensor = how.get("tensor_parallel", 1)
    return total_gib * utilization * GIB - weights_bytes(weights, tensor) - activation_bytes(GEMMA_27B, batch, **how)


def test_parameters_of_the_family_are_the_published_ones():
    assert [model.weight_bytes // 2 for model in FAMILY] == [
        27_432_406_640,
        12_187_325_040,
        4_300_079_472,
        999_885_952,
        268_098_176,
    ]


@pytest.mark.parametrize("log", [log for log in LOGS if log.loaded_gib], ids=str)
def test_weights_take_what_a_log_says(log):
    weights = shipped(log.checkpoint).checkpoints[0].weight_bytes
    assert weights_bytes(weights, log.gpus) / GIB == pytest.approx(log.loaded_gib, rel=0.03)


def wishes(log, **more):
    return PlanRequest(
        gpu_memory_utilization=log.utilization,
        tensor_parallel_size=log.gpus,
        max_num_batched_tokens=log.batched_tokens,
        max_num_seqs=log.sequences,
        hybrid=log.hybrid,
        **more,
    )


def planned(log, **more):
    box = parse_gpus(f"{log.gpus}x {log.total_gib}GiB sm90")
    model = shipped(log.checkpoint)
    assert model is not None
    return make_plan(replace(model, checkpoints=model.checkpoints[:1]), box, wishes(log, **more))


@pytest.mark.parametrize("log", [log for log in LOGS if log.total_gib], ids=str)
def test_no_plan_says_fits_where_a_log_says_no(log):
    if log.refused:
        assert not planned(log, max_model_len=log.refused).fits
    if log.longest:
        assert planned(log, context=2048).max_model_len <= log.longest


@pytest.mark.parametrize("log", [log for log in LOGS if log.kv_gib or log.tokens], ids=str)
def test_the_kv_cache_is_within_15_percent_of_what_a_log_says(log):
    found = planned(log, max_model_len=log.max_model_len or 32_768, context=2048) if log.hybrid else None
    weights = shipped(log.checkpoint).checkpoints[0].weight_bytes
    batch = Batch(log.batched_tokens, log.sequences)
    available = left(log.total_gib, log.utilization, weights, batch, tensor_parallel=log.gpus)
    if found is not None:
        assert found.memory_gib["kv_cache"] == pytest.approx(available / GIB, abs=0.01)
    if log.kv_gib:
        assert available / GIB == pytest.approx(log.kv_gib, rel=0.15)
    if log.tokens:
        layout = kv_layout(
            GEMMA_27B, tensor_parallel=log.gpus, max_num_batched_tokens=log.batched_tokens, hybrid=log.hybrid
        )
        assert layout.capacity(int(available), log.max_model_len) == pytest.approx(log.tokens, rel=0.15)


@pytest.mark.parametrize("log", [log for log in LOGS if log.longest and log.total_gib > 30], ids=str)
def test_the_longest_request_is_within_15_percent_of_what_was_measured(log):
    assert left_length(log) == pytest.approx(log.longest, rel=0.15)


def left_length(log):
    weights = shipped(log.checkpoint).checkpoints[0].weight_bytes
    available = left(log.total_gib, log.utilization, weights, Batch(log.batched_tokens, log.sequences))
    return kv_layout(GEMMA_27B, max_num_batched_tokens=log.batched_tokens).longest(int(available), 131_072)


def test_quantised_weights_have_the_bytes_that_their_geometry_gives():
    by_name = {checkpoint.name: checkpoint.weight_bytes for checkpoint in QUANTISED_27B}
    assert by_name["RedHatAI/gemma-3-27b-it-FP8-dynamic"] == pytest.approx(29.28e9, rel=0.001)
    assert by_name["RedHatAI/gemma-3-27b-it-quantized.w4a16"] == pytest.approx(16.87e9, rel=0.001)


@pytest.mark.parametrize(
    ("name", "vocab", "hidden", "intermediate", "gib"),
    [("Llama 3.3 70B, two H100", 128_256, 8192, 28_672, 4.84), ("gpt-oss-20b, one H100", 201_088, 2880, 2880, 7.38)],
)
def test_the_sampler_with_1024_sequences_takes_what_h100_logs_say(name, vocab, hidden, intermediate, gib):
    """Peak activation memory of two other models at vLLM's defaults for an H100, from a public table of logs."""
    model = ModelFacts(name, (), 64, hidden, intermediate, vocab, 131_072, ())
    bare = activation_bytes(model, Batch(1, 512), images=False) - 512 * vocab * 39
    peak = activation_bytes(model, Batch(8192, 1024), images=False) - bare
    assert peak / GIB == pytest.approx(gib, rel=0.15)


def test_a_tuned_batch_fits_the_full_context_on_one_h100():
    weights = GEMMA_27B.checkpoints[0].weight_bytes
    tuned = kv_layout(GEMMA_27B, max_num_batched_tokens=2048)
    assert tuned.fits(int(left(79.2, 0.92, weights, Batch(2048, 128))), 131_072)


def test_leaving_images_out_saves_the_tower_at_work():
    batch = Batch(2048, 16)
    assert activation_bytes(GEMMA_27B, batch, images=False) < activation_bytes(GEMMA_27B, batch)
