"""Model facts: from a folder, from the Hugging Face cache, from the shipped table."""

import json

import pytest

from serving.errors import ConfigurationError
from serving.hardware.parse import parse_gpus
from serving.model.facts import KvLayers
from serving.model.gemma3 import FAMILY, QUANTISED_27B
from serving.model.resolve import resolve
from serving.planning.plan import PlanRequest, make_plan

LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "vocab_size": 128_256,
    "max_position_embeddings": 131_072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
# As on the hub: what equals transformers' defaults is left out.
GEMMA_4B = {
    "model_type": "gemma3",
    "torch_dtype": "bfloat16",
    "text_config": {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "sliding_window": 1024,
    },
    "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 1152},
}


def folder(path, config, **files):
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    for name, size in files.items():
        with (path / f"{name}.safetensors").open("wb") as file:
            file.truncate(size)
    return str(path)


def test_a_plain_model_is_read_from_its_folder(tmp_path):
    facts = resolve(folder(tmp_path, LLAMA, **{"model-00001-of-00001": 16_060_000_000}))
    assert facts.kv_layers == (KvLayers("full", 32, 8, 128),)
    assert facts.checkpoints[0].weight_bytes == 16_060_000_000
    assert make_plan(facts, parse_gpus("1x L40S"), PlanRequest()).max_model_len == 131_072


def test_without_its_weights_their_size_is_computed(tmp_path):
    assert resolve(folder(tmp_path, LLAMA)).checkpoints[0].weight_bytes == pytest.approx(16.06e9, rel=0.01)


def test_what_gemmas_configuration_leaves_out_is_filled_in(tmp_path):
    facts = resolve(folder(tmp_path, GEMMA_4B))
    shipped = FAMILY[2]
    for name in ("heads", "hidden", "intermediate", "vocab", "tower_bytes", "family"):
        assert getattr(facts, name) == getattr(shipped, name)
    assert set(facts.kv_layers) == set(shipped.kv_layers)
    assert facts.vision
    assert facts.checkpoints[0].weight_bytes == shipped.checkpoints[0].weight_bytes


@pytest.mark.parametrize(
    ("change", "full", "sliding"),
    [
        ({"sliding_window": 4096}, 0, 32),
        ({"sliding_window": 4096, "use_sliding_window": False}, 32, 0),
        ({"sliding_window": None}, 32, 0),
        ({"model_type": "gemma2", "sliding_window": 4096}, 16, 16),
        ({"layer_types": ["sliding_attention", "full_attention"] * 16, "sliding_window": 128}, 16, 16),
    ],
)
def test_the_kinds_of_layers_are_read(tmp_path, change, full, sliding):
    facts = resolve(folder(tmp_path, LLAMA | change))
    counts = {layers.kind: layers.count for layers in facts.kv_layers}
    assert (counts.get("full", 0), counts.get("sliding", 0)) == (full, sliding)


@pytest.mark.parametrize(
    ("quantisation", "precision"),
    [
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "int4"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32}, "int4"),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}},
            },
            "fp8",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}},
            },
            "int4",
        ),
    ],
)
def test_the_precision_of_quantised_weights_is_read(tmp_path, quantisation, precision):
    facts = resolve(folder(tmp_path, LLAMA | {"quantization_config": quantisation}))
    assert facts.checkpoints[0].precision == precision
    assert facts.checkpoints[0].weight_bytes < 10e9


def test_weights_in_float32_are_loaded_in_what_computes(tmp_path):
    facts = resolve(folder(tmp_path, LLAMA | {"torch_dtype": "float32"}, model=32_000_000_000))
    assert facts.checkpoints[0].weight_bytes == 16_000_000_000


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": "bert"},
        LLAMA | {"kv_lora_rank": 512},
        LLAMA | {"layer_types": ["linear_attention"] * 32},
        LLAMA | {"num_attention_heads": "many"},
        [],
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_sentence(tmp_path, config):
    with pytest.raises(ConfigurationError, match="cannot be planned") as caught:
        resolve(folder(tmp_path, config))
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_configuration_and_a_broken_one_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"has no config\.json"):
        resolve(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        resolve(str(tmp_path))
    with pytest.raises(ConfigurationError, match="there is no such folder"):
        resolve(str(tmp_path / "nowhere"))


def test_the_hugging_face_cache_is_looked_into(tmp_path):
    repository = tmp_path / "models--acme--llama"
    folder(repository / "snapshots" / "abc", LLAMA, model=16_060_000_000)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    facts = resolve("acme/llama", tmp_path)
    assert (facts.name, facts.checkpoints[0].name) == ("acme/llama", "acme/llama")


def test_an_unknown_model_is_refused_with_what_would_help(tmp_path):
    with pytest.raises(ConfigurationError, match="hf download acme/unknown"):
        resolve("acme/unknown", tmp_path)


def test_the_family_is_known_without_a_network():
    assert resolve("google/gemma-3-27b-it").checkpoints[0].gated
    assert [item.precision for item in resolve("google/gemma-3-27b-it").checkpoints] == ["bf16", "fp8", "int4"]
    for checkpoint in QUANTISED_27B:
        assert resolve(checkpoint.name).checkpoints == (checkpoint,)
    assert resolve("unsloth/gemma-3-27b-it").checkpoints[0].gated is False
    assert resolve("google/gemma-3-270m").checkpoints[0].name == "google/gemma-3-270m"


def cached(cache, name, files, config=LLAMA, index=None):
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / "abc"
    folder(snapshot, config, **files)
    if index is not None:
        (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")


def test_a_cached_checkpoint_of_the_table_has_the_size_of_its_files(tmp_path):
    cached(tmp_path, "gaunernst/gemma-3-27b-it-int4-awq", {"model": 19_000_000_000})
    (found,) = resolve("gaunernst/gemma-3-27b-it-int4-awq", tmp_path).checkpoints
    assert found.weight_bytes == 19_000_000_000
    cached(tmp_path, "RedHatAI/gemma-3-27b-it-FP8-dynamic", {}, index={"metadata": {"total_size": 29_900_000_000}})
    sizes = {item.precision: item.weight_bytes for item in resolve("google/gemma-3-27b-it", tmp_path).checkpoints}
    assert sizes["fp8"] == 29_900_000_000
    assert sizes["bf16"] == FAMILY[0].checkpoints[0].weight_bytes


@pytest.mark.parametrize("index", [None, [], {}, {"metadata": None}, {"metadata": {"total_size": "much"}}])
def test_a_download_that_was_cut_off_does_not_say_how_large_the_weights_are(tmp_path, index):
    name = "RedHatAI/gemma-3-27b-it-FP8-dynamic"
    cached(tmp_path, name, {"model-00001-of-00006": 5_000_000_000}, index=index)
    assert (
        resolve(name, tmp_path).checkpoints[0].weight_bytes
        == resolve(name, tmp_path / "none").checkpoints[0].weight_bytes
    )
