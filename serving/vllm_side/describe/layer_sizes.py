"""The bytes of the weights of a model by kind, and what its layers keep of a request: read from what vLLM made."""

import fnmatch
import json
import re
from collections import Counter


def weights(model, left_out):
    """Return the bytes of the model's parameters by kind, and of its buffers."""
    from vllm.model_executor.layers.linear import LinearBase
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    found, counted = Counter(), set()
    parts = hasattr(model, "language_model")
    for name, module in model.named_modules():
        kind = "other"
        if parts and not name.startswith(("language_model", "model.language_model", "lm_head")):
            kind = "tower"
        elif isinstance(module, VocabParallelEmbedding):
            kind = "embedding"
        elif isinstance(module, LinearBase):
            kind = "kept" if left_out(name) else "linear"
        elif "experts" in name or "MoE" in type(module).__name__:
            kind = "kept" if left_out(name) else "experts"
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in counted:
                counted.add(id(parameter))
                found[kind] += parameter.numel() * parameter.element_size()
    found["buffers"] = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    return dict(found)


FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


def left_out_by(quantised):
    """Return a function that tells whether a quantisation's configuration leaves a module of a name out."""
    patterns = [
        str(pattern)
        for key in ("ignore", "ignored_layers", "modules_to_not_convert", "exclude_modules")
        for pattern in (quantised or {}).get(key) or ()
    ]

    def matches(name):
        for pattern in patterns:
            if pattern.startswith("re:"):
                if re.match(pattern[3:], name):
                    return True
            elif fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(name, f"{pattern}.*") or pattern in name.split("."):
                return True
        return False

    def left_out(name):
        stem, _, last = name.rpartition(".")
        return any(matches(f"{stem}.{part}") for part in FUSED.get(last, (last,)))

    return left_out


def kv_layers(config):
    """Return the layers that keep something of each request, alike ones together."""
    from vllm.v1 import kv_cache_interface as kinds

    found = Counter()
    for layer in config.compilation_config.static_forward_context.values():
        if getattr(layer, "kv_sharing_target_layer_name", None) or not hasattr(layer, "get_kv_cache_spec"):
            continue  # it uses another's
        spec = layer.get_kv_cache_spec(config)
        if spec is None:  # an encoder's layer
            continue
        for one in kinds.iter_layer_specs(spec):
            found[json.dumps(kv_layer(kinds, one, config), sort_keys=True)] += 1
    return [json.loads(layer) | {"count": count} for layer, count in found.items()]


def kv_layer(kinds, spec, config):
    """Return what the arithmetic needs of a layer's specification, without the block's size, which is the engine's."""
    kind = spec.__class__.__name__.removesuffix("Spec")
    if isinstance(spec, kinds.MambaSpec):
        copies = 2 if config.cache_config.mamba_cache_mode == "align" else 1
        return {"kind": kind, "state_bytes": spec.state_content_size_bytes, "state_copies": copies}
    if not isinstance(spec, kinds.AttentionSpec):
        return {"kind": kind}
    return {
        "kind": kind,
        "heads": spec.num_kv_heads,
        "head_dim": spec.head_size,
        "value_dim": spec.head_size_v,
        "value_bytes": spec.dtype.itemsize,
        "token_bytes": spec.unpadded_page_size_bytes / spec.block_size,
        "window": getattr(spec, "sliding_window", None) or getattr(spec, "attention_chunk_size", None) or 0,
    }
