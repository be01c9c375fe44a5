"""vLLM 0.32's KV cache arithmetic: how many blocks a request takes, and how many tokens the memory holds.

vLLM gives out memory in blocks. Layers of one kind are cut into groups of equal size; every group of a request draws
its own blocks from one pool, and a block holds `block_tokens` tokens of all layers of its group. Gemma 3 27B has
10 full and 52 sliding layers: 1 full group and 6 sliding ones of (at most) 10 layers.

Source: `vllm/v1/core/kv_cache_utils.py` and `vllm/v1/kv_cache_interface.py` of vLLM 0.32.0; the functions are named
below. The same code runs on CUDA and on the CPU engine, with blocks of 16 and of 128 tokens (`platforms/cpu.py`,
`check_and_update_config`).

The block that is held back: the pool keeps one block for itself (the null block), so vLLM checks whether one request
fits against one block less than there are (`get_kv_cache_configs`). The capacity that it logs ("GPU KV cache size", on
the CPU engine "CPU KV cache size") divides all blocks, and so includes that block, on both (`get_kv_cache_capacity`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving.model.facts import ModelFacts

CUDA_BLOCK_TOKENS = 16
CPU_BLOCK_TOKENS = 128


def ceil_div(number: int, by: int) -> int:
    """Return `number / by`, rounded up."""
    return -(-number // by)


def layer_groups(full: int, sliding: int, *, hybrid: bool = True) -> tuple[int, int, int]:
    """Return (layers in a group, groups of full layers, groups of sliding layers).

    Layers of one kind alone are one group. Of two kinds, the smaller count is the group's size, unless the counts are
    within a factor of 1.5: then the larger is, and the smaller kind is padded. Without the hybrid manager all layers
    are kept like full ones. Source: `get_kv_cache_groups`, `_get_kv_cache_groups_uniform_page_size`,
    `unify_hybrid_kv_cache_specs`.
    """
    if not sliding or not full:
        return full + sliding, int(full > 0), int(sliding > 0)
    if not hybrid:
        return full + sliding, 1, 0
    fewer, more = sorted((full, sliding))
    size = more if more < 1.5 * fewer else fewer
    return size, ceil_div(full, size), ceil_div(sliding, size)


@dataclass(frozen=True)
class KvLayout:
    """Hold how one engine lays out its KV cache, on each of its GPUs.

    `block_bytes` is what one block takes, `in_flight_tokens` what may be scheduled and not settled yet.
    """

    block_bytes: int
    block_tokens: int
    full_groups: int
    sliding_groups: int
    window: int
    in_flight_tokens: int

    def blocks(self, tokens: int) -> int:
        """Return how many blocks one request of `tokens` tokens takes.

        Source: `FullAttentionSpec.max_memory_usage_bytes`, `SlidingWindowSpec.max_admission_blocks_per_request` (a
        window keeps its last `window - 1` tokens and what is in flight, and may begin inside a block),
        `_max_memory_usage_bytes_from_groups`.
        """
        kept = min(self.window - 1 + self.in_flight_tokens, tokens)
        sliding = ceil_div(kept, self.block_tokens) + 1
        return self.full_groups * ceil_div(tokens, self.block_tokens) + self.sliding_groups * sliding

    def bytes(self, tokens: int) -> int:
        """Return how many bytes one request of `tokens` tokens takes on each GPU."""
        return self.blocks(tokens) * self.block_bytes

    def pool(self, available: int) -> int:
        """Return how many blocks `available` bytes hold (`get_kv_cache_config_from_groups`)."""
        return max(0, available) // self.block_bytes

    def fits(self, available: int, tokens: int) -> bool:
        """Tell whether vLLM starts with this length: one request, and the block that is held back, fit."""
        return self.bytes(tokens) <= available - self.block_bytes

    def longest(self, available: int, limit: int) -> int:
        """Return the largest length, at most `limit`, that vLLM starts with; 0 if there is none.

        Source: `_auto_fit_max_model_len`, a binary search as here.
        """
        low, high = 0, limit
        while low < high:
            middle = (low + high + 1) // 2
            if self.fits(available, middle):
                low = middle
            else:
                high = middle - 1
        return low

    def concurrency(self, available: int, tokens: int) -> float:
        """Return how many requests of `tokens` tokens fit at once (`get_max_concurrency_for_kv_cache_config`)."""
        return self.pool(available) / self.blocks(tokens)

    def capacity(self, available: int, max_model_len: int) -> int:
        """Return the capacity in tokens that vLLM logs (`get_kv_cache_capacity`)."""
        return int(self.concurrency(available, max_model_len) * max_model_len)


def kv_layout(
    model: ModelFacts,
    *,
    tensor_parallel: int = 1,
    value_bytes: int = 2,
    block_tokens: int = CUDA_BLOCK_TOKENS,
    max_num_batched_tokens: int = 2048,
    concurrent_batches: int = 2,
    hybrid: bool = True,
) -> KvLayout:
    """Return the layout of a model's KV cache.

    `value_bytes` is the size of one cached number (2 for bfloat16, 4 for float32, 1 for an fp8 cache).
    `concurrent_batches` is 2 with asynchronous scheduling, which is the default on CUDA, and 1 on the CPU engine
    (`VllmConfig.max_concurrent_batches`, `max_in_flight_tokens`). KV heads are divided among the GPUs, and copied
    where there are fewer heads than GPUs (`ModelConfig.get_num_kv_heads`).
    """
    size, full_groups, sliding_groups = layer_groups(model.full_layers, model.sliding_layers, hybrid=hybrid)
    heads = max(1, model.kv_heads // tensor_parallel)
    return KvLayout(
        block_bytes=size * block_tokens * 2 * heads * model.head_dim * value_bytes,
        block_tokens=block_tokens,
        full_groups=full_groups,
        sliding_groups=sliding_groups,
        window=model.window,
        in_flight_tokens=concurrent_batches * max_num_batched_tokens,
    )
