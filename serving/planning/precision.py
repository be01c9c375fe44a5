"""Which weights a GPU can use, and what it computes them in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving.hardware.gpu import Gpu
    from serving.model.facts import Checkpoint, ModelFacts, Precision
    from serving.planning.request import PlanRequest

BF16_CAPABILITY = (8, 0)
FP8_CAPABILITY = (8, 9)  # before it, fp8 weights are widened to bfloat16 as they are used (vLLM's Marlin kernel)
ENGINE_CAPABILITY = (7, 5)  # the oldest that CUDA 13, and so the engine's PyTorch, still compiles for
ORDER: tuple[Precision, ...] = ("bf16", "fp8", "int8", "int4", "fp4")  # best first


@dataclass(frozen=True)
class Compute:
    """What the engine computes in: vLLM's name of the type and the bytes of one number."""

    dtype: str
    size: int


def checkpoints(model: ModelFacts, request: PlanRequest) -> list[Checkpoint]:
    """Return the checkpoints to try, best first: plain ones as they are quantised on load, where that was asked for."""
    if request.quantization is not None:
        return [quantised_on_load(item) for item in model.checkpoints if item.linear_bytes]
    asked = [item for item in model.checkpoints if request.precision in ("auto", item.precision)]
    return sorted(asked, key=lambda item: ORDER.index(item.precision))


def quantised_on_load(plain: Checkpoint) -> Checkpoint:
    """Return a plain checkpoint as vLLM holds it after `--quantization fp8`: its linear layers in half the bytes."""
    half = plain.linear_bytes // 2
    return replace(plain, precision="fp8", weight_bytes=plain.weight_bytes - half, linear_bytes=half)


def gpu_compute(gpu: Gpu, checkpoint: Checkpoint, request: PlanRequest) -> Compute | None:
    """Return what the GPU would compute in, None if it cannot run the checkpoint at all.

    float16 is never chosen. A GPU without bfloat16 computes plain weights in float32; quantised ones are multiplied in
    16 bits, which leaves nothing for it. An unknown capability is taken for one that has bfloat16.
    """
    capability = gpu.compute_capability or BF16_CAPABILITY
    if capability < ENGINE_CAPABILITY:
        return None
    if request.dtype == "float16":
        return Compute("float16", 2)
    if request.dtype == "float32" or (request.dtype == "auto" and capability < BF16_CAPABILITY):
        asked_for_bf16 = request.precision == "bf16" and request.dtype == "auto"
        return Compute("float32", 4) if checkpoint.precision == "bf16" and not asked_for_bf16 else None
    return Compute("bfloat16", 2) if capability >= BF16_CAPABILITY else None


def cpu_compute(checkpoint: Checkpoint, request: PlanRequest) -> Compute | None:
    """Return what the CPU engine would compute in: float32 unless asked otherwise (AVX2 has no bfloat16)."""
    if checkpoint.precision != "bf16":
        return None
    if request.dtype == "auto":
        return Compute("bfloat16", 2) if request.precision == "bf16" else Compute("float32", 4)
    return Compute(request.dtype, 4 if request.dtype == "float32" else 2)


def label(checkpoint: Checkpoint, compute: Compute) -> str:
    """Return the name of what runs: bf16, fp8, int4, or fp32 and fp16 where plain weights are computed in those."""
    if checkpoint.precision != "bf16":
        return checkpoint.precision
    return {"float32": "fp32", "float16": "fp16"}.get(compute.dtype, "bf16")
