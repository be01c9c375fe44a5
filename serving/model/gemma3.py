"""The Gemma 3 family, as shipped facts: 270M, 1B, 4B, 12B and 27B.

Sizes as in the models' configuration files; the parameters that follow from them equal the published counts (27B:
27,432,406,640). Checkpoints: Google's own, which are gated, and for the 27B those quantised ones that are known to
work with vLLM.
"""

from __future__ import annotations

from dataclasses import replace

from serving.model.facts import LINEAR_BYTES, LOADED, Checkpoint, ModelFacts, tower_bytes
from serving.units import GIB

# What transformers' Gemma3TextConfig takes for what a config.json leaves out.
CONFIG_DEFAULTS = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
    "sliding_window": 4096,
}


def _member(
    size: str,
    layers: int,
    hidden: int,
    intermediate: int,
    heads: int,
    kv_heads: int,
    head_dim: int = 256,
    *,
    window: int = 1024,
    vision: bool = True,
) -> ModelFacts:
    name = f"google/gemma-3-{size}-it"
    facts = ModelFacts(
        name=name,
        full_layers=layers // 6,
        sliding_layers=layers - layers // 6,
        window=window,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        hidden=hidden,
        intermediate=intermediate,
        vocab=262_208 if vision else 262_144,
        max_model_len=131_072 if vision else 32_768,
        checkpoints=(),
        tower_bytes=tower_bytes(hidden) if vision else 0,
        gemma=True,
    )
    return replace(facts, checkpoints=(Checkpoint(name, "bf16", 2 * facts.parameters, gated=True),))


def _quantised(facts: ModelFacts, name: str, form: str, loaded_gib: float | None) -> Checkpoint:
    """Return a checkpoint of known geometry; `loaded_gib`, what vLLM logged when it loaded it, counts for more."""
    weights = int(facts.linear_parameters * LINEAR_BYTES[form] + facts.other_parameters * 2)
    if loaded_gib is not None:
        weights = int(loaded_gib * GIB / LOADED)
    return Checkpoint(name, "fp8" if form == "fp8" else "int4", weights)


_27B = _member("27b", 62, 5376, 21504, 32, 16, 128)
# The first of each precision is the one that the planner takes; the others are planned where they are named.
QUANTISED_27B = tuple(
    _quantised(_27B, name, form, loaded_gib)
    for name, form, loaded_gib in (
        ("RedHatAI/gemma-3-27b-it-FP8-dynamic", "fp8", None),
        ("RedHatAI/gemma-3-27b-it-quantized.w4a16", "int4-g128", None),
        ("BCCard/gemma-3-27b-it-FP8-Dynamic", "fp8", None),
        ("leon-se/gemma-3-27b-it-FP8-Dynamic", "fp8", None),
        ("ISTA-DASLab/gemma-3-27b-it-GPTQ-4b-128g", "int4-g128", None),
        # "Model loading took" in public logs; awq stores zero points beside its scales (vllm-project/vllm#16199).
        ("gaunernst/gemma-3-27b-it-qat-compressed-tensors", "int4-g32", 17.42),
        ("gaunernst/gemma-3-27b-it-int4-awq", "int4-g32", 17.611),
        ("gaunernst/gemma-3-27b-it-qat-autoawq", "int4-g32", 17.611),
    )
)

# Largest first.
FAMILY = (
    replace(_27B, checkpoints=(*_27B.checkpoints, *QUANTISED_27B[:2])),
    _member("12b", 48, 3840, 15360, 16, 8),
    _member("4b", 34, 2560, 10240, 8, 4),
    _member("1b", 26, 1152, 6912, 4, 1, window=512, vision=False),
    _member("270m", 18, 640, 2048, 4, 1, window=512, vision=False),
)


def shipped(name: str) -> ModelFacts | None:
    """Return the facts behind a name: a member of the family, or one of its known checkpoints; None if neither."""
    wanted = name.lower()
    for facts in FAMILY:
        # The base models and the mirrors have the same sizes.
        if wanted == facts.name:
            return facts
        if wanted in (facts.name.removesuffix("-it"), facts.name.removesuffix("-it") + "-pt"):
            return _alone(facts, replace(facts.checkpoints[0], name=name))
        if wanted == facts.name.replace("google/", "unsloth/"):
            return _alone(facts, replace(facts.checkpoints[0], name=name, gated=False))
    for checkpoint in QUANTISED_27B:
        if wanted == checkpoint.name.lower():
            return _alone(_27B, checkpoint)
    return None


def _alone(facts: ModelFacts, checkpoint: Checkpoint) -> ModelFacts:
    return replace(facts, name=checkpoint.name, checkpoints=(checkpoint,))
