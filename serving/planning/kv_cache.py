"""vLLM 0.32's KV cache arithmetic: how many blocks a request takes, and how many tokens the memory holds.

vLLM gives out memory in blocks, all of one size. Layers that keep the same of a request form groups of equally many
layers; every group of a request draws its own blocks from one pool, and a block holds `block_tokens` tokens of all
layers of its group. Gemma 3 27B has 10 full and 52 sliding layers: 1 full group and 6 sliding ones of (at most) 10
layers. Layers of which a token takes less get larger blocks, in tokens, until a block takes the same of each: a full
layer of Gemma 4 31B has 4 heads of 512 where a sliding one has 16 of 256, so its blocks hold 32 tokens, not 16.

Source: `vllm/v1/core/kv_cache_utils.py` and `vllm/v1/kv_cache_interface.py` of vLLM 0.32.0; the functions are named
below. The same code runs on CUDA and on the CPU engine, with blocks of 16 and of 128 tokens (`platforms/cpu.py`,
`check_and_update_config`). Layouts that put the block outermost (VLLM_KV_CACHE_LAYOUT) are grouped otherwise; vLLM
does not choose one by itself for the kinds of layers that are planned here.

The block that is held back: the pool keeps one block for itself (the null block), so vLLM checks whether one request
fits against one block less than there are (`get_kv_cache_configs`). The capacity that it logs ("GPU KV cache size", on
the CPU engine "CPU KV cache size") divides all blocks, and so includes that block, on both (`get_kv_cache_capacity`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from serving.model.facts import KvKind, KvLayers, ModelFacts

CUDA_BLOCK_TOKENS = 16
CPU_BLOCK_TOKENS = 128
LATENT_HYBRID_BLOCK_TOKENS = 128  # latent attention beside states (`platforms/interface.py`)


def ceil_div(number: int, by: int) -> int:
    """Return `number / by`, rounded up."""
    return -(-number // by)


@dataclass(frozen=True)
class CacheGroup:
    """Layers that share the blocks of a request: what they keep, and how many tokens a block holds of it."""

    kind: KvKind
    layers: int
    block_tokens: int
    window: int = 0
    state_copies: int = 1

    def blocks(self, tokens: int, in_flight: int) -> int:
        """Return how many blocks one request of `tokens` tokens takes, with `in_flight` tokens not settled yet.

        Source: `FullAttentionSpec.max_memory_usage_bytes`, `SlidingWindowSpec.max_admission_blocks_per_request` (a
        window keeps its last `window - 1` tokens and what is in flight, and may begin inside a block),
        `ChunkedLocalAttentionSpec` (a chunk and what is in flight), `MambaSpec`.
        """
        if self.kind == "state":
            return self.state_copies
        if self.kind == "sliding":
            return ceil_div(min(self.window - 1 + in_flight, tokens), self.block_tokens) + 1
        if self.kind == "chunked":
            tokens = min(self.window + in_flight, tokens)
        return ceil_div(tokens, self.block_tokens)


@dataclass(frozen=True)
class KvLayout:
    """How one engine lays out its KV cache, on each of its GPUs.

    `block_bytes` is what one block takes, `in_flight_tokens` what may be scheduled and not settled yet.
    """

    block_bytes: int
    groups: tuple[CacheGroup, ...]
    in_flight_tokens: int

    def blocks(self, tokens: int) -> int:
        """Return how many blocks one request of `tokens` tokens takes (`_max_memory_usage_bytes_from_groups`)."""
        return sum(group.blocks(tokens, self.in_flight_tokens) for group in self.groups)

    def bytes(self, tokens: int) -> int:
        """Return how many bytes one request of `tokens` tokens takes on each GPU."""
        return self.blocks(tokens) * self.block_bytes

    def pool(self, available: int) -> int:
        """Return how many blocks `available` bytes hold (`get_kv_cache_config_from_groups`)."""
        return max(0, available) // self.block_bytes

    def fits(self, available: int, tokens: int) -> bool:
        """Whether vLLM starts with this length: one request, and the block that is held back, fit."""
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


@dataclass(frozen=True)
class _Layers:
    """Alike layers, with the bytes of a block of theirs (vLLM's page)."""

    kind: KvKind
    count: int
    block_tokens: int
    page: int
    shape: tuple[object, ...]  # what must be equal before layers share a group
    window: int = 0
    state_copies: int = 1

    @property
    def blocks(self) -> Callable[[int, int], int]:
        return CacheGroup(self.kind, 1, self.block_tokens, self.window, self.state_copies).blocks


def kv_layout(
    model: ModelFacts,
    *,
    tensor_parallel: int = 1,
    value_bytes: int = 2,
    sliding_value_bytes: int | None = None,
    block_tokens: int = CUDA_BLOCK_TOKENS,
    max_num_batched_tokens: int = 2048,
    concurrent_batches: int = 2,
    hybrid: bool = True,
) -> KvLayout:
    """Return the layout of a model's KV cache.

    `value_bytes` is the size of one cached number (2 for bfloat16, 4 for float32, 1 for an fp8 cache),
    `sliding_value_bytes` that of sliding layers where it differs. `concurrent_batches` is 2 with asynchronous
    scheduling, which is the default on CUDA, and 1 on the CPU engine (`VllmConfig.max_concurrent_batches`,
    `max_in_flight_tokens`). Source: `get_kv_cache_groups`.
    """
    layers = _pages(model.kv_layers, tensor_parallel, value_bytes, sliding_value_bytes or value_bytes, block_tokens)
    in_flight = concurrent_batches * max_num_batched_tokens
    if not hybrid:
        layers = _all_full(layers)
    if _one_group(layers):
        first = layers[0]
        group = CacheGroup(
            first.kind, sum(item.count for item in layers), first.block_tokens, first.window, first.state_copies
        )
        return KvLayout(sum(item.count * item.page for item in layers), (group,), in_flight)
    layers = _merged(_equal_pages(layers))
    size = group_size([item.count for item in layers])
    groups = [
        CacheGroup(item.kind, size, item.block_tokens, item.window, item.state_copies)
        for item in layers
        for _ in range(ceil_div(item.count, size))
    ]
    return KvLayout(size * layers[0].page, tuple(groups), in_flight)


def group_size(counts: Sequence[int]) -> int:
    """Return how many layers a group has, by how many there are of each kind.

    The smallest count, unless all are within a factor of 1.5: then the largest is, and the others are padded. Source:
    `_get_kv_cache_groups_uniform_page_size`.
    """
    return max(counts) if max(counts) < 1.5 * min(counts) else min(counts)


def _pages(
    kv_layers: Iterable[KvLayers], tensor_parallel: int, value_bytes: int, sliding_value_bytes: int, block_tokens: int
) -> list[_Layers]:
    """Return the layers with the size of their blocks, before vLLM makes those equal."""
    kept = list(kv_layers)
    states = [item for item in kept if item.kind == "state"]
    sizes = {
        item: item.token_bytes(sliding_value_bytes if item.kind == "sliding" else value_bytes, tensor_parallel)
        for item in kept
        if item.kind != "state"
    }
    state_page = max((item.state_bytes // tensor_parallel for item in states), default=0)
    if states and sizes:
        # A block of attention holds so many tokens that a state fits one (`Platform._align_hybrid_block_size`).
        token = max(sizes.values())
        least = max(block_tokens, LATENT_HYBRID_BLOCK_TOKENS if any(i.kind == "latent" for i in sizes) else 0)
        block_tokens = least * ceil_div(state_page, least * token)
        state_page = block_tokens * token
    found = [
        _Layers(
            item.kind,
            item.count,
            block_tokens,
            block_tokens * size,
            (max(1, item.heads // tensor_parallel), item.head_dim, item.value_dim, size),
            item.window,
        )
        for item, size in sizes.items()
    ]
    return found + [
        _Layers("state", item.count, block_tokens, state_page, (item.state_bytes,), 0, item.state_copies)
        for item in states
    ]


def _all_full(layers: list[_Layers]) -> list[_Layers]:
    """Return the layers as the engine keeps them without its hybrid manager: all of them like full ones.

    Those of one kind alone stay as they are. Source: `unify_hybrid_kv_cache_specs`.
    """
    if not any(item.kind in ("full", "latent") for item in layers):
        return layers
    return [
        replace(item, kind="full", window=0) if item.kind in ("sliding", "chunked", "latent") else item
        for item in layers
    ]


def _one_group(layers: list[_Layers]) -> bool:
    """Whether all layers always need equally many blocks (`UniformTypeKVCacheSpecs.is_uniform_type`)."""
    kinds = {"full" if item.kind == "latent" else item.kind for item in layers}
    return len(kinds) == 1 and len({(item.window, item.block_tokens, item.state_copies) for item in layers}) == 1


def _equal_pages(layers: list[_Layers]) -> list[_Layers]:
    """Return the layers with blocks of one size: of more tokens where that comes out even, else padded.

    Source: `unify_kv_cache_spec_page_size`.
    """
    page = max(item.page for item in layers)
    return [
        replace(item, block_tokens=item.block_tokens * (page // item.page), page=page)
        if item.kind != "state" and page % item.page == 0
        else replace(item, page=page)
        for item in layers
    ]


def _merged(layers: list[_Layers]) -> list[_Layers]:
    """Return the layers with those counted together that may share a group."""
    found: dict[object, _Layers] = {}
    for item in layers:
        key = (item.kind, item.block_tokens, item.shape, item.window, item.state_copies)
        found[key] = replace(item, count=item.count + (found[key].count if key in found else 0))
    return list(found.values())
