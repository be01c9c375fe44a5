"""Ask vLLM's own allocation code. Runs in the engine's environment: cases as JSON on stdin, answers on stdout."""

import contextlib
import json
import sys
from types import SimpleNamespace
from unittest import mock

import torch
import vllm.config.vllm
from vllm.config import CacheConfig
from vllm.model_executor.models import ModelRegistry
from vllm.platforms.interface import Platform
from vllm.v1.attention.backend import MultipleOf
from vllm.v1.core import kv_cache_utils
from vllm.v1.kv_cache_interface import (
    ChunkedLocalAttentionSpec,
    FullAttentionSpec,
    MambaSpec,
    MLAAttentionSpec,
    SlidingWindowSpec,
)

DTYPES = {1: torch.uint8, 2: torch.bfloat16, 4: torch.float32}


class Backend:
    """An attention backend like those of CUDA: blocks of any multiple of 16 tokens, nothing packed."""

    @staticmethod
    def get_supported_kernel_block_sizes():
        return [MultipleOf(16)]

    @staticmethod
    def supports_block_size(size):
        return size % 16 == 0

    @staticmethod
    def customize_spec(spec):
        return spec


def heads(layers, case):
    return max(1, layers["heads"] // case["tensor_parallel"])


def dtype(layers, case):
    if layers.get("number_bytes"):
        return DTYPES[layers["number_bytes"]]
    return DTYPES[case["sliding_value_bytes"] if layers["kind"] == "sliding" else case["value_bytes"]]


def align(config, case):
    """Let vLLM choose the block of a model whose layers partly keep a state."""
    attention = max(
        (layers for layers in case["layers"] if layers["kind"] != "state"),
        key=lambda layers: heads(layers, case) * layers["head_dim"],
    )
    states = [layers for layers in case["layers"] if layers["kind"] == "state"]
    size = max(layers["state_bytes"] for layers in states) // case["tensor_parallel"]
    config.model_config.use_mla = attention["kind"] == "latent"
    config.model_config.dtype = dtype(attention, case)
    config.model_config.get_num_kv_heads = lambda parallel: heads(attention, case)
    config.model_config.get_head_size = lambda: attention["head_dim"]
    config.model_config.architecture = ""
    made = SimpleNamespace(
        get_mamba_state_shape_from_config=lambda config: ((size,),),
        get_mamba_state_dtype_from_config=lambda config: (torch.uint8,),
    )
    with (
        mock.patch.object(ModelRegistry, "resolve_model_cls", return_value=(made, "")),
        mock.patch.object(Platform, "_find_non_ssm_backends", return_value=[Backend]),
        mock.patch.object(vllm.config.vllm, "set_current_vllm_config", return_value=contextlib.nullcontext()),
    ):
        Platform._align_hybrid_block_size(config, Backend)


def specs(config, case):
    found = {}
    block = config.cache_config.block_size
    for number, layers in enumerate(case["layers"]):
        for layer in range(layers["count"]):
            name = f"layer.{number}.{layer}"
            if layers["kind"] == "state":
                size = layers["state_bytes"] // case["tensor_parallel"]
                found[name] = MambaSpec(
                    block_size=config.cache_config.mamba_block_size or block,
                    shapes=((size,),),
                    dtypes=(torch.uint8,),
                    page_size_padded=config.cache_config.mamba_page_size_padded,
                    mamba_cache_mode=config.cache_config.mamba_cache_mode,
                )
                continue
            common = {"block_size": block, "num_kv_heads": heads(layers, case), "dtype": dtype(layers, case)}
            common |= {"head_size": layers["head_dim"]}
            if layers["kind"] == "latent":
                found[name] = MLAAttentionSpec(**common | {"num_kv_heads": 1})
                continue
            if layers.get("value_dim") is not None:
                common["head_size_v"] = layers["value_dim"]
            if layers["kind"] == "sliding":
                found[name] = SlidingWindowSpec(sliding_window=layers["window"], **common)
            elif layers["kind"] == "chunked":
                found[name] = ChunkedLocalAttentionSpec(attention_chunk_size=layers["window"], **common)
            else:
                found[name] = FullAttentionSpec(**common)
    return found


def answer(case):
    cache = CacheConfig(block_size=case["block_tokens"])
    cache.kv_cache_layout = "LBNHC"
    cache.mamba_cache_mode = "align" if any(item.get("state_copies") == 2 for item in case["layers"]) else "none"
    config = SimpleNamespace(
        model_config=SimpleNamespace(
            max_model_len=case["tokens"],
            original_max_model_len=-1 if case["auto"] else case["tokens"],
        ),
        cache_config=cache,
        scheduler_config=SimpleNamespace(
            disable_hybrid_kv_cache_manager=not case["hybrid"],
            max_num_batched_tokens=case["max_num_batched_tokens"],
        ),
        parallel_config=SimpleNamespace(
            decode_context_parallel_size=1, prefill_context_parallel_size=1, tensor_parallel_size=1
        ),
        max_in_flight_tokens=case["concurrent_batches"] * case["max_num_batched_tokens"],
        speculative_config=None,
        kv_transfer_config=None,
        attention_config=SimpleNamespace(hisparse_config=None),
        device_config=SimpleNamespace(device_type="cuda"),
        num_prefill_lookahead_tokens=0,
    )
    kinds = {layers["kind"] for layers in case["layers"]}
    if "state" in kinds and len(kinds) > 1:
        align(config, case)
    try:
        groups = kv_cache_utils.get_kv_cache_groups(config, specs(config, case))
    except (RuntimeError, ValueError) as error:  # a layout that vLLM does not take
        return {"refused": str(error)[:200]}
    block = kv_cache_utils._pool_bytes_per_block(config, groups)
    need = kv_cache_utils._max_memory_usage_bytes_from_groups(config, groups)
    found = {"block_bytes": block, "need": need, "groups": len(groups)}
    try:
        made = kv_cache_utils.get_kv_cache_configs(config, [specs(config, case)], [case["available"]])
    except ValueError:
        return found | {"starts": False}
    tokens, concurrency = kv_cache_utils.get_kv_cache_capacity(config, made[0])
    return found | {
        "starts": True,
        "max_model_len": config.model_config.max_model_len,
        "tokens": tokens,
        "concurrency": concurrency,
    }


json.dump([answer(case) for case in json.load(sys.stdin)], sys.stdout)
