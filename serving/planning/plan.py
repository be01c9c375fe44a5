"""The plan: what runs on this hardware, how vLLM is to be sized for it, and why.

`make_plan` is a pure function of facts about the model, facts about the hardware, and what was asked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from serving.errors import ConfigurationError
from serving.planning.request import PlanRequest
from serving.planning.search import best_candidate, divisors, every_candidate, wanted_length
from serving.units import GIB

if TYPE_CHECKING:
    from serving.hardware.gpu import Gpu, Hardware
    from serving.model.facts import ModelFacts
    from serving.planning.search import Candidate

__all__ = ["CONCURRENCY_TOKENS", "Plan", "PlanRequest", "make_plan"]

CONCURRENCY_TOKENS = (2048, 8192, 32_768, 131_072)


@dataclass(frozen=True)
class Plan:
    """What to run; where nothing fits, only `fits`, `reason` and `alternatives` say anything.

    `checkpoint` is what vLLM loads: a name on the hub, or a folder. `kv_cache_tokens` and `concurrency` (requests at
    once, by their tokens; None beyond `max_model_len`) count all copies of the model. `memory_gib` splits one GPU (on
    the CPU engine: the process) into weights, activations, kv_cache, reserve and other_processes. `gpus` are those that
    are used, none on the CPU engine; `devices` names them as CUDA_VISIBLE_DEVICES does, where there are others too.
    `reasons` says why, for each choice; `reason` is all of them. `quantization`, `kv_cache_dtype` and
    `kv_skip_sliding` (all layers but the sliding ones have that type) are what settings ask for. Not `planned`: the
    model is handed on to vLLM, with nothing known of memory and lengths.
    """

    fits: bool
    reason: str
    precision: str | None = None
    checkpoint: str | None = None
    tensor_parallel_size: int | None = None
    data_parallel_size: int | None = None
    max_model_len: int | None = None
    max_num_batched_tokens: int | None = None
    max_num_seqs: int | None = None
    kv_cache_tokens: int | None = None
    concurrency: dict[int, float | None] = field(default_factory=dict)
    memory_gib: dict[str, float] = field(default_factory=dict)
    dtype: str | None = None
    gpu_memory_utilization: float | None = None
    kv_cache_bytes: int | None = None
    language_model_only: bool = False
    reasons: dict[str, str] = field(default_factory=dict)
    alternatives: tuple[str, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    devices: tuple[str, ...] = ()
    gated: bool = False
    quantization: str | None = None
    kv_cache_dtype: str | None = None
    kv_skip_sliding: bool = False
    planned: bool = True

    @property
    def weights_gib(self) -> float:
        """The size of one copy of the model, over all the GPUs that share it."""
        return self.memory_gib.get("weights", 0.0) * (self.tensor_parallel_size or 1)

    @property
    def summary(self) -> str:
        """The plan in one line."""
        if not self.fits:
            return self.reason
        gpus = len(self.gpus)
        where = f"{gpus} GPU{'s' if gpus > 1 else ''}" if gpus else "the CPU"
        if gpus and (self.data_parallel_size or 1) > 1:
            where += f" ({self.data_parallel_size} copies)"
        if not self.planned:
            return f"No plan: {self.checkpoint} on {where}; vLLM finds out by itself what fits. {self.reason}"
        usual = next((tokens for tokens in (8192, 2048) if self.concurrency.get(tokens) is not None), None)
        at_once = f", or {self.concurrency[usual]:.1f} requests of {usual:,}" if usual else ""
        return (
            f"Plan: {self.checkpoint} in {self.precision} on {where}, {self.max_model_len:,} tokens a request; the KV "
            f"cache holds {self.kv_cache_tokens:,} tokens{at_once}."
        )


def make_plan(model: ModelFacts, hardware: Hardware, request: PlanRequest) -> Plan:
    """Return the best plan, or one that says why nothing fits and what would.

    bf16 comes before fp8 before int4 while the wished context fits; `search.choose` says which of the layouts over the
    GPUs is best. Raises ConfigurationError where the request contradicts the model.
    """
    _check(model, hardware, request)
    if request.off or not model.sized:
        return _unplanned(model, hardware, request)
    tried = every_candidate(model, hardware, request)
    chosen = best_candidate(tried, wanted_length(model, request))
    if chosen is not None:
        return _plan(model, hardware, request, chosen)
    from serving.planning.alternatives import alternatives
    from serving.planning.shortfall import shortfall

    others = alternatives(model, hardware, request)
    nearest = f" What would fit: {'; '.join(others)}." if others else ""
    return Plan(fits=False, reason=shortfall(model, hardware, request, tried) + nearest, alternatives=others)


def _check(model: ModelFacts, hardware: Hardware, request: PlanRequest) -> None:
    """Raise ConfigurationError for a request that no hardware could meet."""
    name = request.words.name
    if request.dtype == "float16" and model.family is not None and not model.family.float16:
        raise ConfigurationError(
            f"{name('dtype')}='float16' is not allowed with {model.family.name}, which is numerically unstable in it: "
            "use bfloat16."
        )
    if request.max_model_len is not None and 0 < model.max_model_len < request.max_model_len:
        raise ConfigurationError(
            f"{name('max_model_len')}={request.max_model_len} is not allowed: {model.name} was made for at most "
            f"{model.max_model_len} tokens."
        )
    tensor = request.tensor_parallel_size
    if tensor is not None and tensor not in (allowed := divisors(model, 64)):
        raise ConfigurationError(
            f"{name('tensor_parallel_size')}={tensor} is not allowed: the {model.heads} attention heads and "
            f"{' or '.join(map(str, model.kv_heads))} KV heads of {model.name} can be divided among "
            f"{', '.join(map(str, allowed))} GPUs."
        )
    tokens, seqs = request.max_num_batched_tokens, request.max_num_seqs
    if tokens is not None and seqs is not None and tokens < seqs:
        raise ConfigurationError(
            f"{name('max_num_batched_tokens')}={tokens} is not allowed: it must be at least "
            f"{name('max_num_seqs')}={seqs}."
        )
    if request.quantization is not None:
        _check_quantization(model, hardware, request)
    by_setting = request.kv_cache_dtype != "auto" and "kv_cache_dtype" not in request.words.given
    if by_setting and not hardware.gpus:
        raise ConfigurationError(
            f"{name('kv_cache_dtype')}={request.kv_cache_dtype!r} is not allowed without a GPU: the CPU engine is "
            "planned with a cache in what it computes in."
        )
    if request.quantization is None and request.precision != "auto" and model.checkpoint(request.precision) is None:
        there = ", ".join(item.precision for item in model.checkpoints)
        raise ConfigurationError(
            f"{name('precision')}={request.precision!r} is not allowed: of {model.name} there is {there} alone."
        )


def _check_quantization(model: ModelFacts, hardware: Hardware, request: PlanRequest) -> None:
    said = f"{request.words.name('quantization')}={request.quantization!r} is not allowed"
    if not hardware.gpus:
        raise ConfigurationError(f"{said} without a GPU: the CPU engine does not quantise as it loads.")
    if request.precision not in ("auto", "fp8"):
        raise ConfigurationError(f"{said} with {request.words.name('precision')}={request.precision!r}: unset one.")
    if not request.off and not any(item.linear_bytes for item in model.checkpoints):
        raise ConfigurationError(
            f"{said} with {model.name}, of which no plain weights are known: it is for weights in bfloat16."
        )


def _plan(model: ModelFacts, hardware: Hardware, request: PlanRequest, chosen: Candidate) -> Plan:
    from serving.planning.explanation import reasons

    why = reasons(model, hardware, request, chosen)
    length = chosen.longest
    return Plan(
        fits=True,
        reason=" ".join(why.values()),
        precision=chosen.precision,
        checkpoint=chosen.checkpoint.name,
        tensor_parallel_size=chosen.tensor_parallel,
        data_parallel_size=chosen.data_parallel,
        max_model_len=length,
        max_num_batched_tokens=chosen.batch.max_num_batched_tokens,
        max_num_seqs=chosen.batch.max_num_seqs,
        kv_cache_tokens=chosen.layout.capacity(chosen.kv_bytes, length) * chosen.data_parallel,
        concurrency={
            tokens: round(chosen.concurrency(tokens), 2) if tokens <= length else None for tokens in CONCURRENCY_TOKENS
        },
        memory_gib=_memory(chosen),
        dtype=chosen.compute.dtype,
        gpu_memory_utilization=chosen.utilization if chosen.gpus else None,
        kv_cache_bytes=None if chosen.gpus else chosen.kv_bytes,
        # Other families may have a tower that is not known.
        language_model_only=request.text_only and (model.vision or not model.gemma),
        reasons=why,
        gpus=chosen.gpus,
        devices=_devices(hardware, chosen.gpus),
        gated=chosen.checkpoint.gated,
        **_as_set(model, request),
    )


def _unplanned(model: ModelFacts, hardware: Hardware, request: PlanRequest) -> Plan:
    from serving.planning.unplanned import checkpoint, sizing, spread

    chosen = checkpoint(model, request)
    gpus, tensor = spread(model, hardware, request)
    tokens, seqs, share = sizing(gpus, request)
    why = f"{request.words.name('plan')}=off." if request.off else " ".join(model.notes)
    return Plan(
        fits=True,
        reason=why,
        precision=chosen.precision,
        checkpoint=chosen.name,
        tensor_parallel_size=tensor,
        data_parallel_size=max(1, len(gpus) // tensor),
        max_model_len=request.max_model_len,
        max_num_batched_tokens=tokens,
        max_num_seqs=seqs,
        dtype=request.dtype,
        gpu_memory_utilization=share,
        kv_cache_bytes=None if gpus else request.kv_cache_bytes or request.cpu_kv_bytes or GIB,
        language_model_only=request.text_only,
        reasons={"known": why},
        gpus=gpus,
        devices=_devices(hardware, gpus),
        gated=chosen.gated,
        planned=False,
        **_as_set(model, request),
    )


def _as_set(model: ModelFacts, request: PlanRequest) -> dict[str, Any]:
    """Return what settings ask of vLLM by flags; what arguments ask for stands in the arguments."""
    found: dict[str, Any] = {"quantization": request.quantization}
    if request.kv_cache_dtype != "auto" and "kv_cache_dtype" not in request.words.given:
        found |= {"kv_cache_dtype": request.kv_cache_dtype, "kv_skip_sliding": model.hybrid}
    return found


def _memory(chosen: Candidate) -> dict[str, float]:
    parts = {"weights": chosen.weights, "activations": chosen.activations, "kv_cache": chosen.kv_bytes}
    parts |= {"reserve": 0, "other_processes": 0}
    if chosen.gpus:
        tightest = min(chosen.gpus, key=lambda gpu: gpu.total_bytes)
        parts["other_processes"] = tightest.total_bytes - tightest.free_bytes
        parts["reserve"] = max(0, tightest.total_bytes - sum(parts.values()))
    return {part: round(size / GIB, 2) for part, size in parts.items()}


def _devices(hardware: Hardware, gpus: tuple[Gpu, ...]) -> tuple[str, ...]:
    """Return the names of the chosen GPUs in the order of the bus; none if all are, and nothing else restricts CUDA."""
    if len(gpus) == len(hardware.gpus) and not hardware.restricted:
        return ()
    left = list(enumerate(hardware.gpus))
    found = []
    for gpu in gpus:
        index = next(position for position, (_, other) in enumerate(left) if other is gpu or other == gpu)
        number, _ = left.pop(index)
        found.append((number, gpu.id or str(number)))
    return tuple(name for _, name in sorted(found))
