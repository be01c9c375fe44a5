"""Adapters and drafts: read before anything starts, counted by the plan, refused as vLLM refuses them."""

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from serving.errors import ConfigurationError, Refused
from serving.hardware.parse import parse_gpus
from serving.model.additions import RANKS, Additions, find_draft, read_adapters
from serving.model.facts import KvLayers
from serving.model.gemma3 import FAMILY
from serving.model.hub import HubReader
from serving.model.resolve import resolve
from serving.planning.memory import adapter_bytes
from serving.planning.plan import PlanRequest, make_plan
from tests.support.fake_hub import FakeHub, safetensors

GEMMA_27B = FAMILY[0]
GEMMA_31B = resolve("google/gemma-4-31b-it")
GIB = 2**30


def adapter(folder, **config):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 16} | config))
    return folder


def test_adapters_are_read_from_their_folders_and_asked_for(tmp_path):
    words = (f"sql={adapter(tmp_path / 'a')}", f"law={adapter(tmp_path / 'b', r=40, rank_pattern={'q': 100})}")
    found = Additions(read_adapters(words, "served"))
    assert [item.rank for item in found.adapters] == [16, 100]
    assert found.arguments == (
        *("--enable-lora", "--max-loras", "2", "--max-lora-rank", "128"),
        *("--lora-modules", f"sql={tmp_path / 'a'}", f"law={tmp_path / 'b'}"),
    )


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"r": 0}, "rank of 0"),
        ({"r": 600}, "rank of 600"),
        ({"r": "much"}, "cannot be read"),
        ({"peft_type": "IA3"}, "of the kind IA3"),
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "with a bias"),
        ({"modules_to_save": ["embed_tokens"]}, "embed_tokens"),
        ({"init_lora_weights": "pissa"}, "pissa"),
    ],
)
def test_an_adapter_that_vllm_refuses_is_refused_in_one_sentence(tmp_path, config, said):
    with pytest.raises(ConfigurationError, match=r"SERVE_LORA=.* is not allowed") as caught:
        read_adapters((f"sql={adapter(tmp_path, **config)}",), "served")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("word", ["sql", "=x", "sql=", "a b=x", "served=x", "sql=nowhere"])
def test_what_names_no_adapter_is_refused(word):
    with pytest.raises(ConfigurationError, match="SERVE_LORA"):
        read_adapters((word,), "served")


def test_two_adapters_of_one_name_are_refused(tmp_path):
    word = f"sql={adapter(tmp_path)}"
    with pytest.raises(ConfigurationError, match="something else already"):
        read_adapters((word, word), "served")


@bounds(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.dictionaries(
            st.sampled_from(("r", "rank_pattern", "bias", "peft_type")), st.none() | st.text() | st.integers()
        ),
        st.lists(st.integers()),
    )
)
def test_whatever_an_adapter_holds_it_is_read_or_refused(tmp_path, config):
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    try:
        (found,) = read_adapters((f"sql={tmp_path}",), "served")
    except ConfigurationError:
        return
    assert 1 <= found.rank <= RANKS[-1]


def test_a_slot_for_an_adapter_takes_what_was_computed_for_the_27b():
    assert adapter_bytes(GEMMA_27B, 64, 1) / GIB == pytest.approx(0.85, abs=0.01)
    box, two = parse_gpus("1x H100"), PlanRequest(lora_rank=64, lora_slots=2)
    bare, found = make_plan(GEMMA_27B, box, PlanRequest()), make_plan(GEMMA_27B, box, two)
    assert bare.memory_gib["kv_cache"] - found.memory_gib["kv_cache"] == pytest.approx(1.7, abs=0.03)


@pytest.mark.parametrize("gpus", [2, 4, 8])
def test_gpus_that_share_a_model_share_part_of_an_adapter(gpus):
    whole, shared = (adapter_bytes(GEMMA_27B, 32, 3, tensor_parallel=size) for size in (1, gpus))
    assert whole / gpus < shared < whole


def test_looking_into_the_text_takes_no_draft_and_goes_with_any_model():
    for model in (GEMMA_27B, GEMMA_31B, replace(GEMMA_27B, family=None)):
        draft = find_draft("ngram", model, lambda: pytest.fail("the hub is not asked"))
        assert (draft.weight_bytes, draft.config["method"]) == (0, "ngram")


@pytest.mark.parametrize("method", ["mtp", "eagle3"])
def test_what_vllm_has_no_draft_for_is_refused(method):
    for model in (GEMMA_27B, replace(GEMMA_27B, family=None)):
        with pytest.raises(ConfigurationError, match=f"SERVE_SPECULATE='{method}' is not allowed with"):
            find_draft(method, model, lambda: pytest.fail("the hub is not asked"))


DRAFTS = {
    "mtp": ("google/gemma-4-31B-it-assistant", {"model_type": "gemma4_assistant"}, ()),
    "eagle3": (
        "RedHatAI/gemma-4-31B-it-speculator.eagle3",
        {"transformer_layer_config": {"num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}},
        (KvLayers("full", 1, 8, 128),),
    ),
}


@pytest.mark.parametrize("method", DRAFTS)
def test_a_drafts_weights_and_layers_are_read_from_the_hub_and_counted(method, tmp_path):
    name, config, layers = DRAFTS[method]
    files = {"config.json": json.dumps(config).encode(), "model.safetensors": safetensors({"a": 2 * GIB})}
    with FakeHub({name: files}) as hub:
        draft = find_draft(method, GEMMA_31B, lambda: HubReader(hub.url), tmp_path)
    assert (draft.weight_bytes, draft.kv_layers) == (2 * GIB, layers)
    assert draft.config == {"method": method, "model": name, "num_speculative_tokens": 3}
    box = parse_gpus("1x H100")
    with_draft = make_plan(
        replace(GEMMA_31B, kv_layers=GEMMA_31B.kv_layers + layers), box, PlanRequest(draft_bytes=draft.weight_bytes)
    )
    bare = make_plan(GEMMA_31B, box, PlanRequest())
    assert with_draft.memory_gib["weights"] - bare.memory_gib["weights"] == pytest.approx(2.0, abs=0.01)


def test_a_draft_whose_size_nobody_tells_is_refused(tmp_path):
    name, config, _ = DRAFTS["mtp"]
    with (
        FakeHub({name: {"config.json": json.dumps(config).encode()}}) as hub,
        pytest.raises(ConfigurationError) as caught,
    ):
        find_draft("mtp", GEMMA_31B, lambda: HubReader(hub.url), tmp_path)
    assert "hf download" in str(caught.value)
    with pytest.raises(Refused, match="SERVE_SPECULATE="):
        find_draft("mtp", GEMMA_31B, lambda: HubReader("http://127.0.0.1:1", said="SERVE_SPECULATE"), tmp_path)
