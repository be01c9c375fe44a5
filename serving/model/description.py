"""From vLLM's description of a model (`vllm_side/describe/describe_model.py`) to the facts that the planner takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serving.model.facts import Checkpoint, KvKind, KvLayers, ModelFacts

if TYPE_CHECKING:
    from serving.model.ask_vllm import Description
    from serving.model.quantisation import Form

KINDS: dict[str, KvKind] = {
    "FullAttention": "full",
    "SinkFullAttention": "full",
    "SlidingWindow": "sliding",
    "ChunkedLocalAttention": "chunked",
    "MLAAttention": "latent",
    "Mamba": "state",
}
NUMBER_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True)
class Files:
    """What the files of a checkpoint say: the bytes of all weights, and of those outside the language model.

    None: not known.
    """

    weight_bytes: int | None = None
    outside_bytes: int | None = None


def from_description(found: Description, name: str, form: Form, files: Files, *, gated: bool = False) -> ModelFacts:
    """Return the facts of a checkpoint from vLLM's description of it.

    The weights are those that vLLM makes. Where it cannot make their quantised form here, the files say how large they
    are, and without files the form does. What is outside the language model and was not made comes from the files too.
    """
    notes = [f"Not known: {sentence}." for sentence in found["unknown"]]
    one = found["weights"]["1"]
    size = NUMBER_BYTES.get(found["dtype"], 2)
    outside = found["rest_bytes"] if files.outside_bytes is None else files.outside_bytes
    if found["part"] == "text":
        source = "transformers' own class" if files.outside_bytes is None else "the checkpoint's files"
        what = "is not counted" if outside is None else f"({outside / 2**30:.2f} GiB) is counted from {source}"
        notes.append(f"vLLM made the language model here; what takes images and sound {what}.")
    else:
        outside = 0
    shrunk = one.get("linear", 0) + one.get("experts", 0)
    plain = sum(one.values()) - one["buffers"] - shrunk
    weights = plain + shrunk + (outside or 0)
    if not found["quantised"]:
        weights = plain + int(shrunk * form.weight_bytes / size) + (outside or 0)
        notes.append(f"vLLM cannot make {form.method} weights here: their size is computed from their form.")
        if files.weight_bytes is not None:
            weights = files.weight_bytes
            notes[-1] = f"vLLM cannot make {form.method} weights here: their size is that of the files."
        elif not form.known:
            notes[-1] = f"How large weights of the form {form.method} are is not known here."
    return ModelFacts(
        name=name,
        kv_layers=tuple(_layers(layer, size, notes) for layer in found["kv_layers"]["1"]),
        heads=found["heads"],
        hidden=found["hidden"],
        intermediate=found["intermediate"],
        vocab=found["vocab"],
        max_model_len=found["max_model_len"],
        checkpoints=(
            Checkpoint(
                name,
                form.precision,
                weights,
                gated,
                replicated_bytes=_replicated(found) + (outside or 0),
                linear_bytes=shrunk if form.precision == "bf16" else 0,
            ),
        ),
        tower_bytes=(outside or 0) + one.get("tower", 0),
        buffer_bytes=one["buffers"],
        sized=found["quantised"] or form.known or files.weight_bytes is not None,
        notes=tuple(notes),
    )


def _replicated(found: Description) -> int:
    """Return what each GPU holds whole, by how much less one of two holds than one alone."""
    if "2" not in found["weights"]:
        return 0
    one, two = (int(sum(found["weights"][size].values()) - found["weights"][size]["buffers"]) for size in ("1", "2"))
    return max(0, 2 * two - one)


def _layers(layer: dict[str, Any], size: int, notes: list[str]) -> KvLayers:
    kind = KINDS.get(layer["kind"])
    if kind == "state":
        return KvLayers(
            "state", layer["count"], state_bytes=layer["state_bytes"], state_copies=layer.get("state_copies", 1)
        )
    if kind is None:
        notes.append(f"{layer['count']} layers of the kind {layer['kind']} are planned like full attention.")
    return KvLayers(
        kind or "full",
        layer["count"],
        heads=layer.get("heads", 1),
        head_dim=layer.get("head_dim", 0),
        value_dim=0 if kind == "latent" else layer.get("value_dim"),
        window=layer.get("window", 0) if kind in ("sliding", "chunked") else 0,
        number_bytes=layer["value_bytes"] if layer.get("value_bytes", size) != size else None,
    )
