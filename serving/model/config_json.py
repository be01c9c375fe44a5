"""The facts of a model from its config.json: by asking vLLM, or by arithmetic where vLLM cannot be asked."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from serving.errors import ConfigurationError
from serving.model.description import Files, from_description
from serving.model.facts import Checkpoint, KvLayers, ModelFacts
from serving.model.family import GEMMA3, family_of
from serving.model.gemma3 import CONFIG_DEFAULTS, tower_bytes
from serving.model.quantisation import form
from serving.model.weight_files import weight_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from serving.model.ask_vllm import Ask
    from serving.model.quantisation import Form

Config = dict[str, Any]
# Models whose embedding is their output layer too, where the configuration does not say so.
TIED = ("gemma", "cohere")


def from_folder(folder: Path, name: str, said: str = "SERVE_MODEL", ask: Ask | None = None) -> ModelFacts:
    """Return the facts of the checkpoint in `folder`, from its config.json and the sizes of its weights' files."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        hint = ""
        if any(folder.glob("*.gguf")):
            hint = " It holds a GGUF file, which vLLM 0.32 does not load: take the checkpoint with safetensors."
        raise ConfigurationError(f"{said}={name!r} is not allowed: {folder} has no config.json.{hint}") from error
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{said}={name!r} is not allowed: {path} cannot be read ({error}).") from error
    return from_config(config, name, Files(weight_bytes(folder)), said=said, ask=ask)


def from_config(
    config: Config,
    name: str,
    files: Files,
    *,
    said: str = "SERVE_MODEL",
    ask: Ask | None = None,
    gated: bool = False,
) -> ModelFacts:
    """Return the facts of a model with this configuration, whose weights' files say `files`.

    vLLM is asked, but for a Gemma 3, whose sizes are exact here. Where it cannot be asked or cannot make the model, the
    facts are computed from the configuration, and `notes` says so. Raises ConfigurationError if that describes no
    decoder model.
    """
    try:
        stored, family = form(config), family_of(config)
        note = ""
        if ask is not None and family is not GEMMA3:
            found = ask(config, name)
            if "error" not in found:
                return replace(from_description(found, name, stored, files, gated=gated), family=family)
            note = f"vLLM could not be asked what this model takes ({found['error']}): computed from its config.json."
        facts = _computed(config, name, stored, files)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise ConfigurationError(
            f"{said}={name!r} cannot be planned: its config.json does not describe a decoder model with attention "
            f"({type(error).__name__}: {error})."
        ) from error
    return replace(
        facts,
        family=family,
        checkpoints=tuple(replace(item, gated=gated) for item in facts.checkpoints),
        notes=(note, *facts.notes) if note else facts.notes,
    )


def _computed(config: Config, name: str, stored: Form, files: Files) -> ModelFacts:
    text: Config = config.get("text_config") or config
    gemma3 = str(text.get("model_type", "")).startswith("gemma3") and "gemma3n" not in str(text.get("model_type"))
    gemma3 = gemma3 or config.get("model_type") == "gemma3"
    if gemma3:  # Gemma's own configuration files leave out what equals transformers' defaults
        text = CONFIG_DEFAULTS | text
    hidden, heads, vocab = text["hidden_size"], text["num_attention_heads"], text["vocab_size"]
    notes: list[str] = []
    kv_layers = tuple(_kv_layers(text, notes, gemma3=gemma3))
    tower = tower_bytes(hidden) if gemma3 and config.get("vision_config") else 0
    if not tower and (config.get("vision_config") or config.get("audio_config")):
        notes.append("The size of what takes images and sound is not known and not counted.")
    dtype = str(config.get("dtype") or config.get("torch_dtype") or text.get("dtype") or text.get("torch_dtype"))
    linear = _linear_parameters(text, kv_layers)
    norms = text["num_hidden_layers"] * (4 * hidden + 2 * (text.get("head_dim") or 0)) + hidden
    tied = text.get(
        "tie_word_embeddings", config.get("tie_word_embeddings", str(text.get("model_type")).startswith(TIED))
    )
    plain = (vocab * hidden * (1 if tied else 2) + norms) * 2 + tower
    if files.weight_bytes is None:
        weights = int(linear * stored.weight_bytes) + plain
        if not stored.known:
            notes.append(f"How large weights of the form {stored.method} are is not known here.")
    else:  # plain weights stored in another type are loaded in the one that computes
        wide = stored.precision == "bf16" and "float32" in dtype
        weights = files.weight_bytes // 2 if wide else files.weight_bytes
    return ModelFacts(
        name=name,
        kv_layers=kv_layers,
        heads=heads,
        hidden=hidden,
        intermediate=text.get("intermediate_size") or text["moe_intermediate_size"],
        vocab=vocab,
        max_model_len=text["max_position_embeddings"],
        checkpoints=(
            Checkpoint(name, stored.precision, weights, linear_bytes=2 * linear if stored.precision == "bf16" else 0),
        ),
        tower_bytes=tower,
        sized=stored.known or files.weight_bytes is not None,
        notes=tuple(notes),
    )


def _kv_layers(text: Config, notes: list[str], *, gemma3: bool) -> list[KvLayers]:
    heads = text["num_attention_heads"]
    kv_heads = text.get("num_key_value_heads") or heads
    head_dim = text.get("head_dim") or text["hidden_size"] // heads
    kinds = Counter(_kinds(text, gemma3=gemma3)[: _own_caches(text)])
    found = []
    for kind, count in kinds.items():
        if "kv_lora_rank" in text:
            latent = text["kv_lora_rank"] + text.get("qk_rope_head_dim", 0)
            found.append(KvLayers("latent", count, head_dim=latent, value_dim=0))
        elif kind == "sliding_attention":
            found.append(KvLayers("sliding", count, kv_heads, head_dim, window=int(text["sliding_window"])))
        elif kind == "chunked_attention":
            found.append(KvLayers("chunked", count, kv_heads, head_dim, window=int(text["attention_chunk_size"])))
        elif kind == "full_attention":
            own_heads = text.get("num_global_key_value_heads") if text.get("attention_k_eq_v") else None
            found.append(KvLayers("full", count, own_heads or kv_heads, text.get("global_head_dim") or head_dim))
        else:
            notes.append(f"What {count} layers of the kind {kind} keep of a request is not known and not counted.")
    if not found:
        raise ValueError("no layer with attention is described")
    return found


def _own_caches(text: Config) -> int:
    """Return how many layers have a cache of their own; the last ones may share those of earlier ones."""
    return int(text["num_hidden_layers"]) - int(text.get("num_kv_shared_layers") or 0)


def _kinds(text: Config, *, gemma3: bool) -> list[str]:
    layers, window = int(text["num_hidden_layers"]), text.get("sliding_window")
    kinds = text.get("layer_types")
    if kinds:
        plain = {"sliding_attention": "full_attention"} if not window else {}
        return [plain.get(kind, kind) for kind in kinds]
    if gemma3 or "global_head_dim" in text:
        pattern = text.get("sliding_window_pattern") or text.get("_sliding_window_pattern") or 6
        return ["sliding_attention" if (layer + 1) % pattern else "full_attention" for layer in range(layers)]
    if not window or text.get("use_sliding_window") is False:
        return ["full_attention"] * layers
    if text.get("model_type") == "gemma2":  # every other layer
        return ["sliding_attention", "full_attention"] * (layers // 2) + ["sliding_attention"] * (layers % 2)
    return ["sliding_attention"] * layers


def _linear_parameters(text: Config, kv_layers: tuple[KvLayers, ...]) -> int:
    """Return the parameters of the linear layers, experts among them, of a model built like most are."""
    hidden, layers, heads = text["hidden_size"], text["num_hidden_layers"], text["num_attention_heads"]
    attention = 0
    for kind in kv_layers:
        if kind.kind == "latent":
            nope, rope, value = text["qk_nope_head_dim"], text["qk_rope_head_dim"], text["v_head_dim"]
            rank, query = text["kv_lora_rank"], text.get("q_lora_rank")
            into = query * (hidden + heads * (nope + rope)) if query else hidden * heads * (nope + rope)
            attention += kind.count * (into + hidden * (rank + rope) + rank * heads * (nope + value))
            attention += kind.count * heads * value * hidden
        else:
            keys = 1 if kind.kind == "full" and text.get("attention_k_eq_v") else 2
            attention += kind.count * hidden * kind.head_dim * (2 * heads + keys * kind.heads)
    experts = next((text[key] for key in ("num_experts", "num_local_experts", "n_routed_experts") if text.get(key)), 0)
    dense = text.get("intermediate_size") or 0
    if not experts:
        return int(attention + layers * 3 * hidden * dense)
    size = text.get("moe_intermediate_size") or dense
    period = next((text[key] for key in ("expert_layer_period", "decoder_sparse_step") if text.get(key)), 1)
    first = text.get("first_k_dense_replace") or layers - layers // period
    shared = (text.get("n_shared_experts") or 0) * size + (text.get("shared_expert_intermediate_size") or 0)
    beside = dense if text.get("enable_moe_block") else 0
    mixed = (layers - first) * 3 * hidden * (experts * size + shared + beside)
    return int(attention + mixed + first * 3 * hidden * dense)
