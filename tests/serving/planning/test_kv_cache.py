"""vLLM's KV cache arithmetic: against published figures, and against vLLM's own allocation code."""

import itertools
import json
import os
import subprocess
from dataclasses import replace

import pytest

from serving.model.facts import ModelFacts
from serving.model.gemma3 import FAMILY
from serving.planning.kv_cache import kv_layout, layer_groups
from tests.support.serving import ROOT

GIB = 1024**3
GEMMA_27B, _, GEMMA_4B, _, GEMMA_270M = FAMILY
ENGINE_PYTHON = ROOT / ".venv-engine" / "bin" / "python"
SMOLLM2 = ModelFacts(
    name="smollm2",
    full_layers=30,
    sliding_layers=0,
    window=0,
    heads=9,
    kv_heads=3,
    head_dim=64,
    hidden=576,
    intermediate=1536,
    vocab=49152,
    max_model_len=8192,
    checkpoints=(),
)


def test_gemma_27b_takes_seven_groups_of_ten_layers():
    assert layer_groups(10, 52) == (10, 1, 6)
    assert kv_layout(GEMMA_27B).block_bytes == 1_310_720


@pytest.mark.parametrize(
    ("full", "sliding", "expected"),
    [
        (30, 0, (30, 1, 0)),
        (0, 32, (32, 0, 1)),
        (3, 15, (3, 1, 5)),
        (4, 22, (4, 1, 6)),
        (12, 13, (13, 1, 1)),  # within a factor of 1.5 the smaller kind is padded
        (13, 12, (13, 1, 1)),
        (12, 18, (12, 1, 2)),
    ],
)
def test_layers_of_a_kind_are_cut_into_groups_of_equal_size(full, sliding, expected):
    assert layer_groups(full, sliding) == expected


def test_without_the_hybrid_manager_every_layer_counts_as_full():
    assert layer_groups(10, 52, hybrid=False) == (62, 1, 0)
    layout = kv_layout(GEMMA_27B, hybrid=False)
    assert layout.block_bytes / 16 == 507_904
    assert layout.bytes(131_072) == 62 * GIB


@pytest.mark.parametrize(
    ("tokens", "batched", "gib"),
    [
        (8192, 2048, 2.98),
        (8192, 8192, 4.38),
        (32_768, 2048, 4.85),
        (32_768, 4096, 6.73),
        (32_768, 8192, 10.48),
        (131_072, 2048, 12.35),
        (131_072, 8192, 17.98),
        (131_072, 16384, 25.48),
    ],
)
def test_one_request_takes_what_vllm_computes_for_it(tokens, batched, gib):
    layout = kv_layout(GEMMA_27B, max_num_batched_tokens=batched)
    assert round(layout.bytes(tokens) / GIB, 2) == gib


@pytest.mark.parametrize(("model", "length", "tokens"), [(SMOLLM2, 2048, 23_296), (GEMMA_270M, 2048, 27_678)])
def test_the_cpu_engine_holds_the_tokens_that_it_logged(model, length, tokens):
    layout = kv_layout(model, value_bytes=4, block_tokens=128, concurrent_batches=1)
    assert layout.capacity(GIB, length) == tokens


def test_the_block_that_is_held_back_counts_for_starting_but_not_for_the_logged_capacity():
    layout = kv_layout(GEMMA_27B)
    exactly = layout.bytes(32_768)
    assert not layout.fits(exactly, 32_768)
    assert layout.fits(exactly + layout.block_bytes, 32_768)
    assert layout.capacity(exactly, 32_768) == 32_768


def test_kv_heads_are_copied_where_there_are_fewer_than_gpus():
    one = replace(GEMMA_27B, kv_heads=1)
    assert kv_layout(one, tensor_parallel=4).block_bytes == kv_layout(one).block_bytes
    assert kv_layout(GEMMA_27B, tensor_parallel=4).block_bytes * 4 == kv_layout(GEMMA_27B).block_bytes


def as_case(model, tokens, available, *, tensor_parallel=1, batched=2048, auto=False, cpu=False, hybrid=True):
    return {
        "layout": "LBNHC",
        "full": model.full_layers,
        "sliding": model.sliding_layers,
        "window": model.window,
        "kv_heads": max(1, model.kv_heads // tensor_parallel),
        "head_dim": model.head_dim,
        "value_bytes": 4 if cpu else 2,
        "block_tokens": 128 if cpu else 16,
        "concurrent_batches": 1 if cpu else 2,
        "max_num_batched_tokens": batched,
        "hybrid": hybrid,
        "tokens": tokens,
        "available": available,
        "auto": auto,
    }


def as_layout(model, case, tensor_parallel):
    return kv_layout(
        model,
        tensor_parallel=tensor_parallel,
        value_bytes=case["value_bytes"],
        block_tokens=case["block_tokens"],
        max_num_batched_tokens=case["max_num_batched_tokens"],
        concurrent_batches=case["concurrent_batches"],
        hybrid=case["hybrid"],
    )


@pytest.mark.engine
@pytest.mark.skipif(not ENGINE_PYTHON.exists(), reason="needs vLLM: make setup-engine")
def test_blocks_lengths_and_capacity_equal_those_of_vllms_own_code():
    asked = [
        (GEMMA_27B, tensor, as_case(GEMMA_27B, tokens, size, tensor_parallel=tensor, batched=batched, auto=auto))
        for tensor, batched, tokens, size, auto in itertools.product(
            (1, 2, 4), (2048, 8192), (4096, 20_000, 131_072), (3 * GIB, 19 * GIB + 12_345), (False, True)
        )
    ]
    others = [replace(GEMMA_27B, full_layers=full, sliding_layers=sliding) for full, sliding in ((12, 13), (13, 12))]
    others += [replace(GEMMA_27B, full_layers=0, sliding_layers=32), GEMMA_4B, GEMMA_270M, SMOLLM2]
    for model in others:
        asked += [(model, 1, as_case(model, 8192, 2 * GIB, cpu=cpu, auto=True)) for cpu in (False, True)]
    asked += [(GEMMA_27B, 1, as_case(GEMMA_27B, 131_072, 9 * GIB, hybrid=False, auto=True))]

    done = subprocess.run(
        [ENGINE_PYTHON, ROOT / "tests" / "support" / "vllm_allocation.py"],
        input=json.dumps([case for _, _, case in asked]),
        env=os.environ | {"VLLM_LOGGING_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for (model, tensor, case), theirs in zip(asked, json.loads(done.stdout), strict=True):
        layout = as_layout(model, case, tensor)
        tokens, available = case["tokens"], case["available"]
        length = layout.longest(available, tokens) if case["auto"] else tokens
        assert layout.block_bytes == theirs["block_bytes"], case
        assert layout.bytes(tokens) == theirs["need"], case
        assert layout.full_groups + layout.sliding_groups == theirs["groups"], case
        assert (length > 0 and layout.fits(available, length)) == theirs["starts"], case
        if theirs["starts"]:
            assert length == theirs["max_model_len"], case
            assert layout.capacity(available, length) == theirs["tokens"], case
            assert layout.concurrency(available, length) == pytest.approx(theirs["concurrency"]), case
