"""Why the plan chose what it chose: one sentence for each choice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serving.planning.memory import DEFAULT_UTILIZATION
from serving.planning.precision import BF16_CAPABILITY, FP8_CAPABILITY
from serving.planning.search import BATCHES, CPU_BATCH, wanted_length
from serving.units import GIB

if TYPE_CHECKING:
    from serving.hardware.gpu import Hardware
    from serving.model.facts import ModelFacts
    from serving.planning.request import PlanRequest
    from serving.planning.search import Candidate


def reasons(model: ModelFacts, hardware: Hardware, request: PlanRequest, chosen: Candidate) -> dict[str, str]:
    """Return the reasons, by what they are for; a choice that was the user's is said to be."""
    found = {
        "precision": _precision(model, request, chosen),
        "parallel": _parallel(hardware, request, chosen),
        "context": _context(model, request, chosen),
        "batch": _batch(model, request, chosen),
        "memory": _memory(request, chosen),
        "known": " ".join(model.notes),
        "not_counted": _not_counted(request),
    }
    return {choice: why for choice, why in found.items() if why}


def _not_counted(request: PlanRequest) -> str:
    if not request.not_counted:
        return ""
    flags = " and ".join(dict.fromkeys(request.not_counted))
    return f"What {flags} in SERVE_EXTRA_ARGS takes or gives of memory is not counted."


def _precision(model: ModelFacts, request: PlanRequest, chosen: Candidate) -> str:
    precision, wanted = chosen.precision, wanted_length(model, request)
    old = [gpu for gpu in chosen.gpus if (gpu.compute_capability or BF16_CAPABILITY) < FP8_CAPABILITY]
    note = ""
    if precision == "fp8" and old:
        note = f" {old[0].name} has no fp8 arithmetic: the weights are stored in fp8 and computed in bfloat16."
    if any(gpu.compute_capability is None for gpu in chosen.gpus):
        note += " The compute capability is not known and taken for 8.0."
    if request.precision != "auto" or len(model.checkpoints) == 1:
        asked = "as asked" if request.precision != "auto" else "the one precision of this checkpoint"
        if precision == "fp32":
            where = "there is no GPU" if not chosen.gpus else "there is no bfloat16 before compute capability 8.0"
            return f"float32: {where}."
        return f"{precision}: {asked}.{note}"
    if precision == "fp32":
        where = "there is no GPU" if not chosen.gpus else "there is no bfloat16 before compute capability 8.0"
        return f"float32: {where}, and float16 is never used."
    if precision == "bf16":
        return f"bf16: the weights as they were trained fit with {wanted:,} tokens.{note}"
    return f"{precision}: the best of bf16, fp8 and int4 that fits with {wanted:,} tokens.{note}"


def _parallel(hardware: Hardware, request: PlanRequest, chosen: Candidate) -> str:
    if not chosen.gpus:
        return ""
    tensor, data = chosen.tensor_parallel, chosen.data_parallel
    idle = len(hardware.gpus) - len(chosen.gpus)
    rest = f" {idle} of {len(hardware.gpus)} GPUs stay unused." if idle else ""
    if request.tensor_parallel_size is not None:
        return f"{tensor} GPUs share the model, as asked.{rest}" if tensor > 1 else f"One GPU, as asked.{rest}"
    if chosen.mixed:
        rest += " They differ: the smallest sets the memory, the slowest the pace."
    if chosen.gpus[0].mig:
        return f"One MIG slice: a process sees one only, so slices cannot share a model.{rest}"
    if tensor == 1 and data == 1:
        return f"One GPU holds it.{rest}" if len(hardware.gpus) > 1 else ""
    if tensor == 1:
        return f"{data} copies, one on each GPU: each fits, and copies need no talk between GPUs.{rest}"
    shared = f"{tensor} GPUs share the model, so that its weights are held once and the rest is KV cache."
    return f"{data} copies of it: {shared}{rest}" if data > 1 else shared + rest


def _context(model: ModelFacts, request: PlanRequest, chosen: Candidate) -> str:
    if request.max_model_len is not None:
        return f"{request.max_model_len:,} tokens, as asked."
    if chosen.longest == model.max_model_len:
        less = f" The wish of {request.context:,} is more than that." if request.context > model.max_model_len else ""
        return f"{chosen.longest:,} tokens, the model's own limit.{less}"
    return f"{chosen.longest:,} tokens, the most that one request surely gets in {chosen.kv_bytes / GIB:.1f} GiB."


def _batch(model: ModelFacts, request: PlanRequest, chosen: Candidate) -> str:
    batch = chosen.batch
    if request.max_num_batched_tokens is not None and request.max_num_seqs is not None:
        return "Steps: as asked."
    if batch == CPU_BATCH and not chosen.gpus:
        return ""
    if batch == BATCHES[0]:
        sliding = any(layers.kind == "sliding" for layers in model.kv_layers)
        why = "each takes KV cache in every sliding layer" if sliding else "activations stay small"
        return f"Steps of {batch.max_num_batched_tokens:,} tokens: {why}."
    return f"Steps of {batch.max_num_batched_tokens:,} tokens, {batch.max_num_seqs} requests: more leaves too little."


def _memory(request: PlanRequest, chosen: Candidate) -> str:
    if not chosen.gpus or request.gpu_memory_utilization is not None or chosen.utilization == DEFAULT_UTILIZATION:
        return ""
    if any(gpu.unified for gpu in chosen.gpus):
        return f"{chosen.utilization:.0%} of the memory, which is the host's too: the rest keeps the machine alive."
    return f"{chosen.utilization:.0%} of each GPU: other processes hold memory."
