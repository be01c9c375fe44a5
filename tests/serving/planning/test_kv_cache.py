"""vLLM's KV cache arithmetic: against published figures, and against what vLLM's own allocation code says."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.engine.program import pinned_version
from serving.model.facts import KvLayers
from serving.model.gemma3 import FAMILY
from serving.model.tryout import TRYOUT_MODELS
from serving.planning.kv_cache import kv_layout
from tests.serving.planning import layouts
from tests.serving.planning.layouts import with_layers

GIB = 1024**3
GEMMA_27B, _, _, _, GEMMA_270M = FAMILY
SMOLLM2 = TRYOUT_MODELS["tryout-smollm2-135m"].sizes
SAID = [json.loads(line) for line in layouts.SAID.read_text(encoding="utf-8").splitlines()]


def groups(model, **how):
    """Return how many layers a group of full and of sliding ones has, and how many groups of each there are."""
    layout = kv_layout(model, **how)
    kinds = [group.kind for group in layout.groups]
    return layout.groups[0].layers, kinds.count("full"), kinds.count("sliding")


def test_gemma_27b_takes_seven_groups_of_ten_layers():
    assert groups(GEMMA_27B) == (10, 1, 6)
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
    layers = [KvLayers("full", full, 8, 128), KvLayers("sliding", sliding, 8, 128, window=1024)]
    assert groups(with_layers(*(item for item in layers if item.count))) == expected


def test_layers_of_which_a_token_takes_less_get_larger_blocks():
    """Gemma 4 31B: 50 sliding layers with 16 heads of 256 numbers, 10 full ones with 4 of 512."""
    layout = kv_layout(with_layers(KvLayers("sliding", 50, 16, 256, window=1024), KvLayers("full", 10, 4, 512)))
    assert {group.kind: group.block_tokens for group in layout.groups} == {"sliding": 16, "full": 32}
    assert len(layout.groups) == 6


def test_without_the_hybrid_manager_every_layer_counts_as_full():
    assert groups(GEMMA_27B, hybrid=False) == (62, 1, 0)
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
    one = with_layers(*(replace(layers, heads=1) for layers in GEMMA_27B.kv_layers))
    assert kv_layout(one, tensor_parallel=4).block_bytes == kv_layout(one).block_bytes
    assert kv_layout(GEMMA_27B, tensor_parallel=4).block_bytes * 4 == kv_layout(GEMMA_27B).block_bytes


@pytest.mark.parametrize("number", range(len(SAID)))
def test_blocks_lengths_and_capacity_equal_what_vllms_own_code_said(number):
    assert layouts.difference(**SAID[number]) is None


def test_both_pinned_versions_were_asked():
    assert {pinned_version("cuda"), pinned_version("cpu")} <= set(layouts.SAID_BY), "ask the new version's code, too"


@st.composite
def models(draw):
    kinds = draw(st.lists(st.sampled_from(("full", "sliding", "chunked")), min_size=1, max_size=3, unique=True))
    return with_layers(
        *(
            KvLayers(
                kind,
                draw(st.integers(1, 60)),
                draw(st.sampled_from((1, 2, 4, 8, 16))),
                draw(st.sampled_from((64, 96, 128, 256, 512))),
                window=0 if kind == "full" else draw(st.sampled_from((128, 1024, 8192))),
            )
            for kind in kinds
        )
    )


@given(models(), st.integers(1, 64 * GIB), st.integers(1, 262_144))
@settings(max_examples=100, deadline=None)
def test_the_longest_length_fits_and_one_token_more_does_not(model, available, limit):
    layout = kv_layout(model)
    longest = layout.longest(available, limit)
    assert longest == 0 or layout.fits(available, longest)
    assert longest == limit or not layout.fits(available, longest + 1)


@given(models(), st.integers(1, 131_072))
@settings(max_examples=100, deadline=None)
def test_sharing_among_gpus_never_takes_more_of_each(model, tokens):
    assert kv_layout(model, tensor_parallel=2).bytes(tokens) <= kv_layout(model).bytes(tokens)


@pytest.mark.engine
def test_vllms_own_code_still_says_the_same():
    """Fresh layouts, and every seventh of those that are kept."""
    asked = [item["asked"] for item in SAID[::7]] + list(layouts.drawn(40, seed=None))
    for one, said in zip(asked, layouts.ask(asked), strict=True):
        assert layouts.difference(one, said) is None
