"""The planner's search: every way in which vLLM may spread a model over the GPUs, and what each would hold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serving.model.facts import LOADED
from serving.planning.kv_cache import CPU_BLOCK_TOKENS, CUDA_BLOCK_TOKENS, KvLayout, kv_layout
from serving.planning.memory import (
    CONTEXT_GIB,
    DEFAULT_UTILIZATION,
    UNIFIED_HOST_GIB,
    UNIFIED_UTILIZATION,
    Batch,
    activation_bytes,
    adapter_bytes,
    weights_bytes,
)
from serving.planning.precision import Compute, checkpoints, cpu_compute, gpu_compute, label
from serving.planning.request import KV_BYTES
from serving.units import GIB

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from serving.hardware.gpu import Gpu, Hardware
    from serving.model.facts import Checkpoint, ModelFacts
    from serving.planning.request import PlanRequest

# Tried in turn while the wished context does not fit: a smaller batch leaves more memory to the KV cache.
BATCHES = (Batch(2048, 128), Batch(1024, 16))
CPU_BATCH = Batch(2048, 16)
CPU_KV_BYTES = GIB
CPU_PROCESS_BYTES = 3 * GIB  # vLLM's processes with everything that they import
CPU_UNKNOWN_HOST_BYTES = 16 * GIB  # taken where the host's memory is not known
# Kept back from the length, not from the capacity: what is left for the KV cache is an estimate, and vLLM does not
# start with a length that turns out not to fit.
SLACK_BYTES = GIB // 4
# Copies of the model are worth more than sharing it as long as they hold this much of what sharing would hold.
COPIES_WORTH = 0.75


@dataclass(frozen=True)
class Candidate:
    """One way to run: which weights, on which GPUs, with which batch, and the memory that follows, in bytes.

    `kv_bytes` is what is left for the KV cache on the GPU that has least; `longest` the largest length that fits it.
    """

    checkpoint: Checkpoint
    compute: Compute
    gpus: tuple[Gpu, ...]
    tensor_parallel: int
    data_parallel: int
    batch: Batch
    utilization: float
    weights: int
    activations: int
    kv_bytes: int
    layout: KvLayout
    longest: int

    def concurrency(self, tokens: int) -> float:
        """Return how many requests of `tokens` tokens fit at once, over all copies of the model."""
        return self.layout.concurrency(self.kv_bytes, tokens) * self.data_parallel

    @property
    def precision(self) -> str:
        """The name of what runs (see `precision.label`)."""
        return label(self.checkpoint, self.compute)

    @property
    def mixed(self) -> bool:
        """Whether GPUs of different kinds share the work."""
        return len({(gpu.name, gpu.total_bytes) for gpu in self.gpus}) > 1


def divisors(model: ModelFacts, limit: int) -> list[int]:
    """Return the tensor-parallel sizes, up to `limit`, that vLLM accepts for the model.

    They divide the attention heads (`ModelConfig.verify_with_parallel_config`), and divide the KV heads or are a
    multiple of them, in every layer.
    """
    return [
        size
        for size in range(1, limit + 1)
        if model.heads % size == 0 and all(heads % size == 0 or size % heads == 0 for heads in model.kv_heads)
    ]


def wanted_length(model: ModelFacts, request: PlanRequest) -> int:
    """Return the least length that a plan must offer: the wish, at most the model's own."""
    return request.max_model_len or min(request.context, model.max_model_len)


def every_candidate(model: ModelFacts, hardware: Hardware, request: PlanRequest) -> list[Candidate]:
    """Return all that can be tried: best precision first, in it the larger batch, in that bfloat16 before float32."""
    found: list[Candidate] = []
    for checkpoint in checkpoints(model, request):
        if not hardware.gpus:
            candidate = cpu_candidate(model, checkpoint, request)
            if candidate is not None and host_bytes_needed(candidate) <= host_bytes(hardware):
                found.append(candidate)
            continue
        by_compute: dict[Compute, list[Gpu]] = {}
        for gpu in hardware.gpus:
            compute = gpu_compute(gpu, checkpoint, request)
            if compute is not None:
                by_compute.setdefault(compute, []).append(gpu)
        for batch in batches(request):
            for compute in sorted(by_compute, key=lambda item: item.size):
                found.extend(candidates(model, checkpoint, compute, by_compute[compute], batch, request))
    return found


def best_candidate(tried: Sequence[Candidate], wanted: int) -> Candidate | None:
    """Return the best of what was tried that holds one request of `wanted` tokens, None if nothing does.

    The order of `tried` counts: the first precision, batch and type of computation with which anything fits.
    """
    for first in tried:
        if first.longest >= wanted:
            alike = (first.checkpoint, first.compute, first.batch)
            fitting = [item for item in tried if (item.checkpoint, item.compute, item.batch) == alike]
            return choose([item for item in fitting if item.longest >= wanted], wanted)
    return None


def host_bytes(hardware: Hardware) -> int:
    """Return the host memory that the CPU engine may take."""
    return CPU_UNKNOWN_HOST_BYTES if hardware.host_bytes is None else hardware.host_bytes


def host_bytes_needed(candidate: Candidate) -> int:
    """Return the host memory that the CPU engine takes."""
    return candidate.weights + candidate.kv_bytes + CPU_PROCESS_BYTES


def batches(request: PlanRequest) -> list[Batch]:
    """Return the batches to try, with what the user fixed."""
    found = []
    for batch in BATCHES:
        tokens, seqs = request.max_num_batched_tokens, request.max_num_seqs
        # vLLM refuses a batch with fewer tokens than sequences.
        new = Batch(
            tokens or max(batch.max_num_batched_tokens, seqs or 0),
            seqs or min(batch.max_num_seqs, tokens or batch.max_num_seqs),
        )
        if new not in found:
            found.append(new)
    return found


def candidates(
    model: ModelFacts,
    checkpoint: Checkpoint,
    compute: Compute,
    gpus: Sequence[Gpu],
    batch: Batch,
    request: PlanRequest,
) -> Iterator[Candidate]:
    """Yield every layout over the GPUs, also those in which nothing fits (their `longest` is 0)."""
    kinds: dict[object, list[Gpu]] = {}
    for gpu in gpus:
        kinds.setdefault((gpu.name, gpu.total_bytes, gpu.compute_capability, gpu.mig), []).append(gpu)
    sets = list(kinds.values())
    whole = [gpu for gpu in gpus if not gpu.mig]
    if len(kinds) > 1 and len(whole) > 1:
        sets.append(whole)
    for members in sets:
        ranked = sorted(members, key=budget, reverse=True)
        # A process sees one MIG slice only, so slices cannot share a model.
        limit = 1 if ranked[0].mig else len(ranked)
        fixed = request.tensor_parallel_size
        for tensor in divisors(model, limit) if fixed is None else [fixed]:
            most = limit // tensor
            if request.data_parallel_size is not None:
                copies: Sequence[int] = [request.data_parallel_size] if request.data_parallel_size <= most else []
            else:
                copies = range(1, (min(most, 1) if fixed is not None else most) + 1)
            for data in copies:
                used = tuple(ranked[: tensor * data])
                yield _candidate(model, checkpoint, compute, used, tensor, data, batch, request)


def choose(fitting: Sequence[Candidate], tokens: int) -> Candidate:
    """Return the best of the candidates that fit.

    Sharing a model (tensor parallel) holds its weights once and leaves the most for the KV cache; copies of it (data
    parallel) need no talk between GPUs and do more work in all. So: the smallest tensor-parallel size that holds at
    least COPIES_WORTH of the requests of `tokens` tokens that the best layout holds, and gives up no length for it.
    GPUs of one kind come before a mixture, which runs at the pace of its slowest.
    """
    alike = [candidate for candidate in fitting if not candidate.mixed] or list(fitting)
    best = max(alike, key=lambda candidate: (candidate.longest, candidate.concurrency(tokens)))
    worth = [
        candidate
        for candidate in alike
        if candidate.longest == best.longest
        and candidate.concurrency(tokens) >= COPIES_WORTH * best.concurrency(tokens)
    ]
    return min(worth, key=lambda candidate: (candidate.tensor_parallel, -candidate.concurrency(tokens)))


def cpu_candidate(model: ModelFacts, checkpoint: Checkpoint, request: PlanRequest) -> Candidate | None:
    """Return the one layout of the CPU engine: blocks of 128 tokens, no asynchronous scheduling, a fixed KV cache.

    None for quantised weights, which it does not run. Source: `vllm/platforms/cpu.py`, `check_and_update_config`;
    `vllm/v1/worker/cpu_worker.py`, `determine_available_memory`.
    """
    compute = cpu_compute(checkpoint, request)
    if compute is None:
        return None
    batch = Batch(
        request.max_num_batched_tokens or max(CPU_BATCH.max_num_batched_tokens, request.max_num_seqs or 0),
        request.max_num_seqs or CPU_BATCH.max_num_seqs,
    )
    layout = kv_layout(
        model,
        value_bytes=KV_BYTES.get(request.kv_cache_dtype, compute.size),
        sliding_value_bytes=_skipped(model, compute, request),
        block_tokens=request.block_size or CPU_BLOCK_TOKENS,
        max_num_batched_tokens=batch.max_num_batched_tokens,
        concurrent_batches=1,
        hybrid=request.hybrid,
    )
    space = request.kv_cache_bytes or request.cpu_kv_bytes or CPU_KV_BYTES
    weights = _weights(model, checkpoint, compute, request, 1) + _added(model, compute, request, 1)
    activations = activation_bytes(model, batch, images=not request.text_only, eager=True, size=compute.size)
    longest = layout.longest(space, request.max_model_len or model.max_model_len)
    return Candidate(checkpoint, compute, (), 1, 1, batch, 0.0, weights, activations, space, layout, longest)


def budget(gpu: Gpu, wished: float | None = None) -> int:
    """Return what vLLM may take of a GPU, in bytes: its default share, or less where others hold memory."""
    return int(gpu.total_bytes * share(gpu, wished))


def free_bytes(gpu: Gpu) -> float:
    """Return what vLLM finds free of a GPU when it looks: its own CUDA context is there by then."""
    return gpu.free_bytes - CONTEXT_GIB * GIB


def share(gpu: Gpu, wished: float | None = None) -> float:
    """Return the largest `gpu_memory_utilization` that vLLM starts with on this GPU, at most its default.

    vLLM refuses a share that is larger than what is free when it starts (`vllm/v1/worker/utils.py`, `request_memory`),
    by which time its own process holds a CUDA context. A share that the user fixed becomes 0 if that would happen.
    Of a memory that is the host's as well, the host keeps its part.
    """
    if gpu.total_bytes <= 0:
        return 0.0
    possible = free_bytes(gpu) / gpu.total_bytes
    if wished is not None:
        return wished if wished <= possible else 0.0
    most = DEFAULT_UTILIZATION
    if gpu.unified:
        host = min(UNIFIED_HOST_GIB * GIB, gpu.total_bytes / 4)
        most, possible = UNIFIED_UTILIZATION, (gpu.free_bytes - host) / gpu.total_bytes
    return max(0.0, math.floor(min(most, possible) * 100 + 1e-9) / 100)


def _candidate(
    model: ModelFacts,
    checkpoint: Checkpoint,
    compute: Compute,
    gpus: tuple[Gpu, ...],
    tensor: int,
    data: int,
    batch: Batch,
    request: PlanRequest,
) -> Candidate:
    layout = kv_layout(
        model,
        tensor_parallel=tensor,
        value_bytes=KV_BYTES.get(request.kv_cache_dtype, compute.size),
        sliding_value_bytes=_skipped(model, compute, request),
        block_tokens=request.block_size or CUDA_BLOCK_TOKENS,
        max_num_batched_tokens=batch.max_num_batched_tokens,
        concurrent_batches=2 if request.async_scheduling else 1,
        hybrid=request.hybrid,
    )
    weights = _weights(model, checkpoint, compute, request, tensor) + _added(model, compute, request, tensor)
    activations = activation_bytes(
        model,
        batch,
        tensor_parallel=tensor,
        images=not request.text_only,
        eager=request.enforce_eager,
        size=compute.size,
    )
    utilization = min(share(gpu, request.gpu_memory_utilization) for gpu in gpus)
    left = min(math.ceil(gpu.total_bytes * utilization) for gpu in gpus) - weights - activations
    if request.kv_cache_bytes is not None:  # vLLM takes exactly this, whatever the share says
        free = min(gpu.free_bytes for gpu in gpus) - weights - activations
        left = request.kv_cache_bytes if request.kv_cache_bytes <= free else min(left, free)
    longest = layout.longest(left - SLACK_BYTES, request.max_model_len or model.max_model_len)
    return Candidate(
        checkpoint, compute, gpus, tensor, data, batch, utilization, weights, activations, left, layout, longest
    )


def _added(model: ModelFacts, compute: Compute, request: PlanRequest, tensor: int) -> int:
    """Return what adapters and a draft take on each GPU; a draft is not always divided, so it counts whole."""
    adapters = adapter_bytes(model, request.lora_rank, request.lora_slots, tensor_parallel=tensor, size=compute.size)
    return adapters + request.draft_bytes


def _skipped(model: ModelFacts, compute: Compute, request: PlanRequest) -> int | None:
    """Return the bytes of a number in the cache of sliding layers, where these are left out of `kv_cache_dtype`."""
    return compute.size if request.kv_skip_sliding and model.hybrid else None


def _weights(model: ModelFacts, checkpoint: Checkpoint, compute: Compute, request: PlanRequest, tensor: int) -> int:
    """Return what a checkpoint takes on each GPU: without the vision tower, wider if computed in float32."""
    left_out = model.tower_bytes if request.text_only else 0
    wide = compute.size // 2 if checkpoint.precision == "bf16" else 1
    whole = max(0, checkpoint.replicated_bytes - left_out)
    loaded = LOADED if model.buffer_bytes is None else 1.0
    size = checkpoint.weight_bytes - left_out
    return weights_bytes(size * wide, tensor, replicated=whole * wide, loaded=loaded)
