"""The way past the plan: hand the model to vLLM, which finds out by itself what fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serving.planning.search import BATCHES, budget, divisors, share

if TYPE_CHECKING:
    from serving.hardware.gpu import Gpu, Hardware
    from serving.model.facts import Checkpoint, ModelFacts
    from serving.planning.request import PlanRequest


def spread(model: ModelFacts, hardware: Hardware, request: PlanRequest) -> tuple[tuple[Gpu, ...], int]:
    """Return the GPUs to use and how many share the model: all that are alike and that its heads can be divided among.

    Slices (MIG) cannot share a model, so of those it is one.
    """
    gpus = sorted(hardware.gpus, key=budget, reverse=True)
    if not gpus:
        return (), 1
    alike = [gpu for gpu in gpus if (gpu.name, gpu.total_bytes) == (gpus[0].name, gpus[0].total_bytes)]
    most = 1 if alike[0].mig else len(alike)
    asked = request.tensor_parallel_size
    sizes = divisors(model, most) if model.heads else [size for size in (1, 2, 4, 8) if size <= most]
    tensor = asked if asked is not None and asked <= len(gpus) else max(sizes)
    copies = min(request.data_parallel_size or 1, len(gpus) // tensor)
    return tuple(gpus[: tensor * max(1, copies)]), tensor


def checkpoint(model: ModelFacts, request: PlanRequest) -> Checkpoint:
    """Return the checkpoint to hand on: the one of the precision that was asked for, else the first."""
    found = (
        None
        if request.precision == "auto"
        else next((item for item in model.checkpoints if item.precision == request.precision), None)
    )
    return found or model.checkpoints[0]


def sizing(gpus: tuple[Gpu, ...], request: PlanRequest) -> tuple[int, int, float | None]:
    """Return tokens and requests of a step, and the share of each GPU, with what the user fixed."""
    tokens = request.max_num_batched_tokens or max(BATCHES[0].max_num_batched_tokens, request.max_num_seqs or 0)
    seqs = request.max_num_seqs or min(BATCHES[0].max_num_seqs, tokens)
    shares = [share(gpu, request.gpu_memory_utilization) for gpu in gpus]
    return tokens, seqs, request.gpu_memory_utilization or (min(shares) if shares else None)
