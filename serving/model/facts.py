"""What the planner must know of a model: its attention layers, its sizes, its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["bf16", "fp8", "int4", "fp32", "fp16"]

# Bytes per weight of the decoder's linear layers. int4 adds a bfloat16 scale for each group of weights.
LINEAR_BYTES = {"bf16": 2.0, "fp8": 1.0, "int4-g128": 0.5 + 2 / 128, "int4-g32": 0.5 + 2 / 32}
LOADED = 1.006  # a model takes a little more than its files: "Model loading took 51.417 GiB" for 51.10 GiB
SIGLIP_PARAMETERS = 416_866_032  # the vision tower that Gemma 3 4B, 12B and 27B share
SIGLIP_WIDTH = 1152


@dataclass(frozen=True)
class Checkpoint:
    """Name weights that can be had: vLLM's name for them, their bytes, whether a licence must be accepted first."""

    name: str
    precision: Precision
    weight_bytes: int
    gated: bool = False


@dataclass(frozen=True)
class ModelFacts:
    """Describe a decoder model.

    `full_layers` attend to everything, `sliding_layers` to the last `window` tokens. `tower_bytes` is the vision
    tower's share of the weights, in bytes; 0 for a text model. `checkpoints` holds at most one for each precision.
    """

    name: str
    full_layers: int
    sliding_layers: int
    window: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    intermediate: int
    vocab: int
    max_model_len: int
    checkpoints: tuple[Checkpoint, ...]
    tower_bytes: int = 0
    gemma: bool = False

    @property
    def vision(self) -> bool:
        """Tell whether the model takes images."""
        return self.tower_bytes > 0

    @property
    def parameters(self) -> int:
        """Return the number of parameters, computed from the sizes (exact for the Gemma 3 family)."""
        return self.linear_parameters + self.other_parameters

    @property
    def linear_parameters(self) -> int:
        """Return the parameters of the decoder's linear layers, which are what quantisation shrinks."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return (self.full_layers + self.sliding_layers) * (attention + 3 * self.hidden * self.intermediate)

    @property
    def other_parameters(self) -> int:
        """Return the parameters of the embedding (tied), the norms and the vision tower."""
        layers = self.full_layers + self.sliding_layers
        norms = layers * (4 * self.hidden + 2 * self.head_dim) + self.hidden
        return self.vocab * self.hidden + norms + self.tower_bytes // 2

    def checkpoint(self, precision: Precision) -> Checkpoint | None:
        """Return the checkpoint for a precision, None if there is none."""
        return next((item for item in self.checkpoints if item.precision == precision), None)


def tower_bytes(hidden: int) -> int:
    """Return the bytes of Gemma 3's vision tower and of its projector into a model of this width, in bfloat16."""
    return 2 * (SIGLIP_PARAMETERS + SIGLIP_WIDTH * hidden + SIGLIP_WIDTH)
