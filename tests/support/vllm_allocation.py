"""Ask vLLM's own allocation code. Runs in the engine's environment: cases as JSON on stdin, answers on stdout."""

import json
import sys
from types import SimpleNamespace

import torch
from vllm.config import CacheConfig
from vllm.v1.core import kv_cache_utils
from vllm.v1.kv_cache_interface import FullAttentionSpec, SlidingWindowSpec


def specs(case):
    common = {
        "block_size": case["block_tokens"],
        "num_kv_heads": case["kv_heads"],
        "head_size": case["head_dim"],
        "dtype": {1: torch.uint8, 2: torch.bfloat16, 4: torch.float32}[case["value_bytes"]],
    }
    found = {}
    layers = case["full"] + case["sliding"]
    every = layers // case["full"] if case["full"] else layers + 1
    full = 0
    for layer in range(layers):
        if full < case["full"] and (layer + 1) % every == 0:
            found[f"layer.{layer}"] = FullAttentionSpec(**common)
            full += 1
        else:
            found[f"layer.{layer}"] = SlidingWindowSpec(sliding_window=case["window"], **common)
    return found


def answer(case):
    cache = CacheConfig(block_size=case["block_tokens"])
    cache.kv_cache_layout = case["layout"]
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
    groups = kv_cache_utils.get_kv_cache_groups(config, specs(case))
    block = kv_cache_utils._pool_bytes_per_block(config, groups)
    need = kv_cache_utils._max_memory_usage_bytes_from_groups(config, groups)
    found = {"block_bytes": block, "need": need, "groups": len(groups)}
    try:
        made = kv_cache_utils.get_kv_cache_configs(config, [specs(case)], [case["available"]])
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
