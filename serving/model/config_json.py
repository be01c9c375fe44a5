"""The facts of a model from a folder that holds its config.json."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from serving.errors import ConfigurationError
from serving.model.facts import LINEAR_BYTES, Checkpoint, ModelFacts, Precision, tower_bytes
from serving.model.gemma3 import CONFIG_DEFAULTS
from serving.model.weight_files import weight_bytes

if TYPE_CHECKING:
    from pathlib import Path


def from_folder(folder: Path, name: str, said: str = "SERVE_MODEL") -> ModelFacts:
    """Return the facts of the checkpoint in `folder`, from its config.json and the sizes of its weights' files."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigurationError(f"{said}={name!r} is not allowed: {folder} has no config.json.") from error
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{said}={name!r} is not allowed: {path} cannot be read ({error}).") from error
    try:
        return _from_config(config, folder, name)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise ConfigurationError(
            f"{said}={name!r} cannot be planned: {path} does not describe a decoder model with ordinary "
            f"attention ({type(error).__name__}: {error})."
        ) from error


def _from_config(config: dict[str, Any], folder: Path, name: str) -> ModelFacts:
    text: dict[str, Any] = config.get("text_config") or config
    gemma = str(text.get("model_type", "")).startswith("gemma3") or config.get("model_type") == "gemma3"
    if gemma:  # Gemma's own configuration files leave out what equals transformers' defaults
        text = CONFIG_DEFAULTS | text
    if "kv_lora_rank" in text:
        raise ValueError("multi-head latent attention is not planned")
    layers, heads, hidden = text["num_hidden_layers"], text["num_attention_heads"], text["hidden_size"]
    full, sliding = _layer_kinds(text, layers, gemma=gemma)
    vision = config.get("vision_config") or {}
    facts = ModelFacts(
        name=name,
        full_layers=full,
        sliding_layers=sliding,
        window=int(text.get("sliding_window") or 0) if sliding else 0,
        heads=heads,
        kv_heads=text.get("num_key_value_heads") or heads,
        head_dim=text.get("head_dim") or hidden // heads,
        hidden=hidden,
        intermediate=text["intermediate_size"],
        vocab=text["vocab_size"],
        max_model_len=text["max_position_embeddings"],
        checkpoints=(),
        tower_bytes=tower_bytes(hidden) if gemma and vision else 0,
        gemma=gemma,
    )
    precision, stored_bytes, group = _stored(config, text)
    weights = weight_bytes(folder)
    if weights is None and any("experts" in key for key in text):
        raise ValueError("the size of a mixture of experts is not known before its weights are here")
    if weights is None:
        linear = LINEAR_BYTES.get(precision if precision != "int4" else f"int4-g{group}", float(stored_bytes))
        weights = int(facts.linear_parameters * linear + facts.other_parameters * stored_bytes)
        if not text.get("tie_word_embeddings", gemma):
            weights += facts.vocab * facts.hidden * stored_bytes
    elif precision == "bf16":
        weights = weights * 2 // stored_bytes  # weights stored in another type are loaded in the one that computes
    return replace(facts, checkpoints=(Checkpoint(name, precision, weights),))


def _layer_kinds(text: dict[str, Any], layers: int, *, gemma: bool) -> tuple[int, int]:
    kinds = text.get("layer_types")
    if kinds:
        if unknown := set(kinds) - {"full_attention", "sliding_attention"}:
            raise ValueError(f"layers of the kind {', '.join(sorted(unknown))} are not planned")
        sliding = sum(kind == "sliding_attention" for kind in kinds)
        if not text.get("sliding_window"):
            sliding = 0
        return layers - sliding, sliding
    if gemma:
        pattern = text.get("sliding_window_pattern") or text.get("_sliding_window_pattern") or 6
        return layers // pattern, layers - layers // pattern
    if not text.get("sliding_window") or text.get("use_sliding_window") is False:
        return layers, 0
    if text.get("model_type") == "gemma2":  # every other layer
        return layers // 2, layers - layers // 2
    return 0, layers


def _stored(config: dict[str, Any], text: dict[str, Any]) -> tuple[Precision, int, int]:
    """Return the precision of the weights, the bytes of an unquantised one as stored, and the int4 group."""
    dtype = str(config.get("dtype") or config.get("torch_dtype") or text.get("dtype") or text.get("torch_dtype"))
    stored = 4 if "float32" in dtype else 2
    quantised = config.get("quantization_config") or text.get("quantization_config")
    if not quantised:
        return "bf16", stored, 0
    method = quantised.get("quant_method", "")
    bits, kind, group = quantised.get("bits"), "int", quantised.get("group_size")
    groups = quantised.get("config_groups") or {}
    for entry in groups.values():
        weights = entry.get("weights") or {}
        bits, kind, group = weights.get("num_bits", bits), weights.get("type", kind), weights.get("group_size", group)
    if method == "fp8" or (bits == 8 and kind == "float"):
        return "fp8", stored, 0
    if bits == 4:
        return "int4", stored, 32 if group == 32 else 128
    raise ValueError(f"weights quantised by {method or 'an unnamed method'} to {bits} bits are not planned")
