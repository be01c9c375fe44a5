"""The Gemma 3 family, as shipped facts: 270M, 1B, 4B, 12B and 27B, and MedGemma 27B, which is a 27B trained further.

Sizes as in the models' configuration files; the parameters that follow from them equal the published counts (27B:
27,432,406,640), and the layers and weights are those that vLLM 0.32 makes (`tests/serving/model/described`).
Checkpoints: Google's own, which are gated, and those quantised ones that public scripts serve with vLLM.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from serving.model.facts import LOADED, Checkpoint, KvLayers, ModelFacts
from serving.model.family import GEMMA3
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
# Bytes per weight of the decoder's linear layers. int4 adds a bfloat16 scale for each group of weights.
LINEAR_BYTES = {"fp8": 1.0, "int4-g128": 0.5 + 2 / 128, "int4-g32": 0.5 + 2 / 32}
SIGLIP_PARAMETERS = 416_866_032  # the vision tower that 4B, 12B and 27B share
SIGLIP_WIDTH = 1152


def tower_bytes(hidden: int) -> int:
    """Return the bytes of the vision tower and of its projector into a model of this width, in bfloat16."""
    return 2 * (SIGLIP_PARAMETERS + SIGLIP_WIDTH * hidden + SIGLIP_WIDTH)


@dataclass(frozen=True)
class _Sizes:
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int = 256
    window: int = 1024
    vision: bool = True

    @property
    def linear_parameters(self) -> int:
        """The parameters of the decoder's linear layers, which are what quantisation shrinks."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def vocab(self) -> int:
        return 262_208 if self.vision else 262_144

    @property
    def tower_bytes(self) -> int:
        return tower_bytes(self.hidden) if self.vision else 0

    @property
    def other_bytes(self) -> int:
        """The bytes of the embedding (tied), the norms and the vision tower."""
        norms = self.layers * (4 * self.hidden + 2 * self.head_dim) + self.hidden
        return 2 * (self.vocab * self.hidden + norms) + self.tower_bytes


_SIZES = {
    "27b": _Sizes(62, 5376, 21504, 32, 16, 128),
    "12b": _Sizes(48, 3840, 15360, 16, 8),
    "4b": _Sizes(34, 2560, 10240, 8, 4),
    "1b": _Sizes(26, 1152, 6912, 4, 1, window=512, vision=False),
    "270m": _Sizes(18, 640, 2048, 4, 1, window=512, vision=False),
}
# The first of each precision is the one that the planner takes; the others are planned where they are named. The
# figure is what public logs say vLLM loaded, in GiB; without one the geometry says it.
_QUANTISED: dict[str, tuple[tuple[str, str, float | None], ...]] = {
    "27b": (
        ("RedHatAI/gemma-3-27b-it-FP8-dynamic", "fp8", None),
        ("RedHatAI/gemma-3-27b-it-quantized.w4a16", "int4-g128", None),
        ("BCCard/gemma-3-27b-it-FP8-Dynamic", "fp8", None),
        ("leon-se/gemma-3-27b-it-FP8-Dynamic", "fp8", None),
        ("ISTA-DASLab/gemma-3-27b-it-GPTQ-4b-128g", "int4-g128", None),
        # "Model loading took" in public logs; awq stores zero points beside its scales (vllm-project/vllm#16199).
        ("gaunernst/gemma-3-27b-it-qat-compressed-tensors", "int4-g32", 17.42),
        ("gaunernst/gemma-3-27b-it-int4-awq", "int4-g32", 17.611),
        ("gaunernst/gemma-3-27b-it-qat-autoawq", "int4-g32", 17.611),
    ),
    "12b": (
        ("RedHatAI/gemma-3-12b-it-FP8-dynamic", "fp8", None),
        ("RedHatAI/gemma-3-12b-it-quantized.w4a16", "int4-g128", None),
        ("gaunernst/gemma-3-12b-it-qat-compressed-tensors", "int4-g32", None),
        ("gaunernst/gemma-3-12b-it-int4-awq", "int4-g32", None),
        ("gaunernst/gemma-3-12b-it-qat-autoawq", "int4-g32", None),
    ),
    "4b": (("RedHatAI/gemma-3-4b-it-quantized.w4a16", "int4-g128", None),),
}


def _quantised(sizes: _Sizes, name: str, geometry: str, loaded_gib: float | None) -> Checkpoint:
    """Return a checkpoint of known geometry; `loaded_gib`, what vLLM logged when it loaded it, counts for more."""
    weights = int(sizes.linear_parameters * LINEAR_BYTES[geometry]) + sizes.other_bytes
    if loaded_gib is not None:
        weights = int(loaded_gib * GIB / LOADED)
    return Checkpoint(name, "fp8" if geometry == "fp8" else "int4", weights)


def _member(size: str) -> ModelFacts:
    """Return a member with its own checkpoint and the first of each quantised form."""
    sizes, name = _SIZES[size], f"google/gemma-3-{size}-it"
    full = sizes.layers // 6
    linear = 2 * sizes.linear_parameters
    plain = Checkpoint(name, "bf16", linear + sizes.other_bytes, gated=True, linear_bytes=linear)
    found = {"bf16": plain}
    for checkpoint in QUANTISED.get(size, ()):
        found.setdefault(checkpoint.precision, checkpoint)
    return ModelFacts(
        name=name,
        kv_layers=(
            KvLayers("full", full, sizes.kv_heads, sizes.head_dim),
            KvLayers("sliding", sizes.layers - full, sizes.kv_heads, sizes.head_dim, window=sizes.window),
        ),
        heads=sizes.heads,
        hidden=sizes.hidden,
        intermediate=sizes.intermediate,
        vocab=sizes.vocab,
        max_model_len=131_072 if sizes.vision else 32_768,
        checkpoints=tuple(found.values()),
        tower_bytes=sizes.tower_bytes,
        family=GEMMA3,
    )


QUANTISED = {size: tuple(_quantised(_SIZES[size], *row) for row in rows) for size, rows in _QUANTISED.items()}
QUANTISED_27B = QUANTISED["27b"]
# Largest first.
FAMILY = tuple(_member(size) for size in _SIZES)


def _medgemma() -> ModelFacts:
    """Return MedGemma 27B: the sizes of the 27B, which its card says it is made from; its config.json was not found."""
    name = "google/medgemma-27b-it"
    note = "MedGemma's own configuration was not seen: the sizes are those of the Gemma 3 that it was trained from."
    return replace(FAMILY[0], name=name, checkpoints=(replace(FAMILY[0].checkpoints[0], name=name),), notes=(note,))


MEDGEMMA = _medgemma()


def shipped(name: str) -> ModelFacts | None:
    """Return the facts behind a name: a member of the family, or one of its known checkpoints; None if neither."""
    wanted = name.lower()
    if wanted == MEDGEMMA.name:
        return MEDGEMMA
    for size, facts in zip(_SIZES, FAMILY, strict=True):
        # The base models and the mirrors have the same sizes.
        if wanted == facts.name:
            return facts
        if wanted in (facts.name.removesuffix("-it"), facts.name.removesuffix("-it") + "-pt"):
            return _alone(facts, replace(facts.checkpoints[0], name=name))
        if wanted == facts.name.replace("google/", "unsloth/"):
            return _alone(facts, replace(facts.checkpoints[0], name=name, gated=False))
        for checkpoint in QUANTISED.get(size, ()):
            if wanted == checkpoint.name.lower():
                return _alone(facts, checkpoint)
    return None


def _alone(facts: ModelFacts, checkpoint: Checkpoint) -> ModelFacts:
    return replace(facts, name=checkpoint.name, checkpoints=(checkpoint,))
