"""Why nothing fits, in one sentence."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from serving.planning.precision import BF16_CAPABILITY, ENGINE_CAPABILITY, checkpoints
from serving.planning.search import (
    SLACK_BYTES,
    cpu_candidate,
    free_bytes,
    host_bytes,
    host_bytes_needed,
    wanted_length,
)
from serving.units import GIB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serving.hardware.gpu import Hardware
    from serving.model.facts import ModelFacts
    from serving.planning.request import PlanRequest
    from serving.planning.search import Candidate


def shortfall(model: ModelFacts, hardware: Hardware, request: PlanRequest, tried: Sequence[Candidate]) -> str:
    """Return the sentence for a search that found nothing; `tried` is what it looked at."""
    size = (request.tensor_parallel_size or 1) * (request.data_parallel_size or 1)
    if size > max(1, len(hardware.gpus)):
        wish = request.words.name("tensor_parallel_size")
        return f"{model.name} was to use {size} GPUs ({wish} times copies), and there is {hardware}."
    if not hardware.gpus:
        return _no_gpu(model, hardware, request)
    if not tried:
        return _unusable(model, hardware, request)
    return _too_small(model, hardware, request, tried)


def _no_gpu(model: ModelFacts, hardware: Hardware, request: PlanRequest) -> str:
    candidate = cpu_candidate(model, checkpoints(model, request)[0], request)
    if candidate is None:
        return f"There is no GPU, and the CPU engine does not run the quantised weights of {model.name}."
    if host_bytes_needed(candidate) > host_bytes(hardware):
        return (
            f"There is no GPU, and on the CPU engine {model.name} would take {host_bytes_needed(candidate) / GIB:.0f} "
            f"GiB of host memory, of which {host_bytes(hardware) / GIB:.0f} GiB may be used."
        )
    return (
        f"{model.name} does not fit the CPU engine with {wanted_length(model, request):,} tokens: one request needs "
        f"{_need(candidate, wanted_length(model, request)):.2f} GiB of KV cache, and SERVE_KV_CACHE_SPACE_GIB gives "
        f"{candidate.kv_bytes / GIB:.2f} GiB."
    )


def _unusable(model: ModelFacts, hardware: Hardware, request: PlanRequest) -> str:
    newest = max(hardware.gpus, key=lambda gpu: gpu.compute_capability or BF16_CAPABILITY)
    capability = newest.compute_capability or BF16_CAPABILITY
    said = f"{newest.name} has compute capability {capability[0]}.{capability[1]}"
    if capability < ENGINE_CAPABILITY:
        return f"{said}, and vLLM's engine needs {ENGINE_CAPABILITY[0]}.{ENGINE_CAPABILITY[1]} or newer."
    if capability < BF16_CAPABILITY:
        return (
            f"{said}, and bfloat16, in which {model.name} computes at this precision, needs 8.0 or newer (float16 is "
            "no way out for Gemma 3)."
        )
    if any(gpu.mig for gpu in hardware.gpus):
        return f"{model.name} cannot be spread over the slices of {hardware}: a process sees one MIG slice only."
    return f"{request.words.name('dtype')}={request.dtype!r} does not go with the weights of {model.name}."


def _too_small(model: ModelFacts, hardware: Hardware, request: PlanRequest, tried: Sequence[Candidate]) -> str:
    wanted = wanted_length(model, request)
    best = max(tried, key=lambda item: item.kv_bytes - item.layout.bytes(wanted))
    tightest = min(best.gpus, key=lambda gpu: gpu.free_bytes)
    if best.utilization == 0 and request.gpu_memory_utilization is not None:
        asked = request.gpu_memory_utilization * tightest.total_bytes
        most = max(0, math.floor(free_bytes(tightest) / tightest.total_bytes * 100)) / 100
        return (
            f"{request.words.name('gpu_memory_utilization')}={request.gpu_memory_utilization} asks for "
            f"{asked / GIB:.1f} GiB of {tightest.name}, of which vLLM would find {free_bytes(tightest) / GIB:.1f} GiB "
            f"free when it starts: at most {most:.2f} can be asked for here."
        )
    each = " on each GPU" if best.tensor_parallel > 1 else ""
    how = best.precision
    if how == "fp32":
        how = "float32 (there is no bfloat16 before compute capability 8.0)"
    text = f"{model.name} does not fit {hardware} with {wanted:,} tokens: "
    held = sum(gpu.total_bytes - gpu.free_bytes for gpu in best.gpus)
    if held > GIB:
        text = text.removesuffix(": ") + f", of which other processes hold {held / GIB:.1f} GiB: "
    if best.kv_bytes <= 0:
        budget = min(gpu.total_bytes for gpu in best.gpus) * best.utilization
        return text + (
            f"in {how} its weights and activations alone take {(best.weights + best.activations) / GIB:.1f} GiB{each}, "
            f"of {budget / GIB:.1f} GiB that vLLM may use."
        )
    return text + (
        f"in {how} {best.kv_bytes / GIB:.1f} GiB{each} are left for the KV cache, of which one request needs "
        f"{_need(best, wanted):.1f} GiB."
    )


def _need(candidate: Candidate, tokens: int) -> float:
    """Return what must be left before vLLM starts with this length, in GiB."""
    slack = SLACK_BYTES if candidate.gpus else 0
    return (candidate.layout.bytes(tokens) + candidate.layout.block_bytes + slack) / GIB
