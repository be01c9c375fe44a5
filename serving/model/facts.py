"""What the planner must know of a model: what its layers keep of a request, its sizes, its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from serving.model.family import Family

# The form of a checkpoint's weights. "fp32" and "fp16" are plain weights computed in those.
Precision = Literal["bf16", "fp8", "int8", "int4", "fp4", "fp32", "fp16"]
KvKind = Literal["full", "sliding", "chunked", "latent", "state"]

# A model takes a little more than its files: "Model loading took 51.417 GiB" for 51.10 GiB. Most of that are the tables
# of its rotary embeddings; this stands for them where vLLM was not asked how large they are.
LOADED = 1.006


@dataclass(frozen=True)
class Checkpoint:
    """Weights that can be had: vLLM's name for them, their bytes, whether a licence must be accepted first.

    `replicated_bytes` is the part of `weight_bytes` that each GPU holds whole where several share the model.
    `linear_bytes` is the part that quantising on load shrinks; 0 where that is not known.
    """

    name: str
    precision: Precision
    weight_bytes: int
    gated: bool = False
    replicated_bytes: int = 0
    linear_bytes: int = 0


@dataclass(frozen=True)
class KvLayers:
    """Layers that keep the same of a request, and how many there are.

    "full" layers keep a key and a value of each token in `heads` heads of `head_dim` numbers (the value's may have
    `value_dim`), "sliding" ones those of the last `window` tokens, "chunked" ones those of a chunk of `window`.
    "latent" ones (multi-head latent attention) keep one vector of `head_dim` numbers, on each GPU the same. "state"
    ones (Mamba, linear attention) keep `state_bytes` of a request, however long it is, `state_copies` times.
    `number_bytes` is set where the checkpoint itself says in how many bytes a number is kept.
    """

    kind: KvKind
    count: int
    heads: int = 1
    head_dim: int = 0
    value_dim: int | None = None
    window: int = 0
    state_bytes: int = 0
    state_copies: int = 1
    number_bytes: int | None = None

    def token_bytes(self, number_bytes: int, tensor_parallel: int = 1) -> int:
        """Return what one of these layers keeps of a token on each GPU; 0 for a layer that keeps a state.

        KV heads are divided among the GPUs, and copied where there are fewer of them than GPUs.
        """
        size = self.number_bytes or number_bytes
        if self.kind == "latent":
            return self.head_dim * size
        heads = max(1, self.heads // tensor_parallel)
        return heads * (self.head_dim + (self.head_dim if self.value_dim is None else self.value_dim)) * size


def unknown(name: str) -> ModelFacts:
    """Return what is known of a model of which nothing is known but the name."""
    return ModelFacts(
        name,
        kv_layers=(),
        heads=0,
        hidden=0,
        intermediate=0,
        vocab=0,
        max_model_len=0,
        checkpoints=(Checkpoint(name, "bf16", 0),),
        sized=False,
        notes=(f"Nothing is known of {name} here.",),
    )


@dataclass(frozen=True)
class ModelFacts:
    """A decoder model.

    `heads` is its attention heads, `kv_layers` what is kept of a request; a layer that shares another's cache does not
    count. `tower_bytes` is the share of the weights that leaving images and sound out saves; 0 for a text model.
    `buffer_bytes` is what vLLM makes beside the weights, on each GPU; None: not known. Not `sized`: how large the
    weights are is not known, so that nothing can be planned.
    `checkpoints` holds at most one for each precision. `notes` says what is not known or was not checked.
    """

    name: str
    kv_layers: tuple[KvLayers, ...]
    heads: int
    hidden: int
    intermediate: int
    vocab: int
    max_model_len: int
    checkpoints: tuple[Checkpoint, ...]
    tower_bytes: int = 0
    buffer_bytes: int | None = None
    sized: bool = True
    family: Family | None = None
    notes: tuple[str, ...] = ()

    @property
    def gemma(self) -> bool:
        """Whether the model is a Gemma 3."""
        return self.family is not None and self.family.name == "Gemma 3"

    @property
    def vision(self) -> bool:
        """Whether the model takes images."""
        return self.tower_bytes > 0

    @property
    def kv_heads(self) -> tuple[int, ...]:
        """The numbers of KV heads that layers have, fewest first."""
        return tuple(sorted({layers.heads for layers in self.kv_layers if layers.kind not in ("latent", "state")}))

    @property
    def hybrid(self) -> bool:
        """Whether some layers keep a window of a request and others all of it."""
        return {"sliding", "full"} <= {layers.kind for layers in self.kv_layers}

    @property
    def weight_bytes(self) -> int:
        """The bytes of the largest checkpoint."""
        return max(checkpoint.weight_bytes for checkpoint in self.checkpoints)

    def checkpoint(self, precision: Precision) -> Checkpoint | None:
        """Return the checkpoint for a precision, None if there is none."""
        return next((item for item in self.checkpoints if item.precision == precision), None)
