"""The Gemma 4 family (April 2026, Apache 2.0), as shipped facts: E2B, E4B, 12B, 26B-A4B and 31B.

The configuration of each was found in public code, in two independent places at least, and gives the parameters that
the family is known for: 5.1, 7.9, 12.0, 25.8 and 31.4 billion, the towers for images and sound included. Layers and
weights are those that vLLM 0.32 makes of these configurations (`tests/serving/model/described.jsonl`); the towers are
counted with transformers' own classes. Nothing of it was loaded on a GPU. The quantised checkpoints are those that
public scripts serve with vLLM; their configurations were not seen, their weights follow from the form in their name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from serving.model.facts import Checkpoint, KvLayers, ModelFacts, Precision
from serving.model.family import GEMMA4


@dataclass(frozen=True)
class _Sizes:
    """A member's layers that have a cache of their own, its sizes, and the bytes of its weights in bfloat16.

    `sliding` and `full` are (layers, KV heads). `linear` is the part of the `language` model that quantisation shrinks,
    `replicated` the part that each GPU holds whole, as it does the `tower` and the `buffers`, vLLM's rotary tables.
    """

    sliding: tuple[int, int]
    full: tuple[int, int]
    heads: int
    hidden: int
    intermediate: int
    language: int
    linear: int
    replicated: int
    tower: int
    window: int = 1024
    max_model_len: int = 262_144
    buffers: int = 402_654_266


_SMALL = {"window": 512, "max_model_len": 131_072, "buffers": 201_327_356}
_SIZES = {
    "31B": _Sizes((50, 16), (10, 4), 32, 5376, 21_504, 61_614_891_520, 58_793_656_320, 2_662_912, 1_151_482_464),
    "26B-A4B": _Sizes((25, 8), (5, 2), 16, 2816, 2112, 50_495_119_360, 49_017_323_520, 23_027_712, 1_145_584_224),
    "12B": _Sizes((40, 8), (8, 1), 16, 3840, 15_360, 23_846_157_824, 21_831_352_320, 64_454_144, 104_759_808),
    # Of the two small ones, the last layers (18 of 42, 20 of 35) use the caches of earlier ones.
    "E4B": _Sizes((20, 2), (4, 2), 8, 2560, 10_240, 14_926_026_752, 7_945_584_640, 111_220_736, 956_174_912, **_SMALL),
    "E2B": _Sizes((12, 1), (3, 1), 8, 1536, 6144, 9_257_138_688, 3_753_639_936, 83_933_696, 951_456_320, **_SMALL),
}
NVFP4_BYTES = 0.5 + 1 / 16
# Checkpoint, its form, and the bytes of its language model. The first of each form is the planner's.
_QUANTISED: dict[str, tuple[tuple[str, Precision, int], ...]] = {
    "31B": (
        ("RedHatAI/gemma-4-31B-it-FP8-Dynamic", "fp8", 32_235_062_840),
        ("cyankiwi/gemma-4-31B-it-AWQ-4bit", "int4", 19_356_955_960),
        ("RedHatAI/gemma-4-31B-it-FP8-block", "fp8", 32_235_062_840),
        ("RedHatAI/gemma-4-31B-it-NVFP4", "fp4", 2_821_235_200 + int(58_793_656_320 * NVFP4_BYTES / 2)),
        ("nvidia/Gemma-4-31B-IT-NVFP4", "fp4", 2_821_235_200 + int(58_793_656_320 * NVFP4_BYTES / 2)),
    ),
    "26B-A4B": (
        ("RedHatAI/gemma-4-26B-A4B-it-FP8-Dynamic", "fp8", 26_064_358_940),
        ("RedHatAI/gemma-4-26B-A4B-it-NVFP4", "fp4", 1_477_795_840 + int(49_017_323_520 * NVFP4_BYTES / 2)),
    ),
}


def _checkpoints(size: str) -> tuple[Checkpoint, ...]:
    sizes = _SIZES[size]
    whole = sizes.replicated + sizes.tower
    plain = Checkpoint(
        f"google/gemma-4-{size}-it",
        "bf16",
        sizes.language + sizes.tower,
        replicated_bytes=whole,
        linear_bytes=sizes.linear,
    )
    return (
        plain,
        *(
            Checkpoint(name, precision, language + sizes.tower, replicated_bytes=whole)
            for name, precision, language in _QUANTISED.get(size, ())
        ),
    )


_NOTE = "The quantised checkpoint's own configuration was not seen: its size follows from the form in its name."


def _member(size: str) -> ModelFacts:
    sizes = _SIZES[size]
    first: dict[Precision, Checkpoint] = {}
    for checkpoint in _checkpoints(size):
        first.setdefault(checkpoint.precision, checkpoint)
    return ModelFacts(
        name=f"google/gemma-4-{size}-it",
        kv_layers=(
            KvLayers("sliding", *sizes.sliding, head_dim=256, window=sizes.window),
            KvLayers("full", *sizes.full, head_dim=512),
        ),
        heads=sizes.heads,
        hidden=sizes.hidden,
        intermediate=sizes.intermediate,
        vocab=262_144,
        max_model_len=sizes.max_model_len,
        checkpoints=tuple(first.values()),
        tower_bytes=sizes.tower,
        buffer_bytes=sizes.buffers,
        family=GEMMA4,
    )


# Largest first.
FAMILY = tuple(_member(size) for size in _SIZES)


def shipped(name: str) -> ModelFacts | None:
    """Return the facts behind a name: a member of the family, or one of its known checkpoints; None if neither."""
    wanted = name.lower()
    for size, facts in zip(_SIZES, FAMILY, strict=True):
        own = facts.name.lower()
        if wanted == own:
            return facts
        # The base models and the mirrors have the same sizes.
        if wanted in (own.removesuffix("-it"), own.replace("google/", "unsloth/")):
            alone = replace(facts.checkpoints[0], name=name)
            return replace(facts, name=name, checkpoints=(alone,))
        for checkpoint in _checkpoints(size)[1:]:
            if wanted == checkpoint.name.lower():
                return replace(facts, name=checkpoint.name, checkpoints=(checkpoint,), notes=(_NOTE,))
    return None
