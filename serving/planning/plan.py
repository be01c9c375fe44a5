"""The plan: what runs on this hardware, with which arguments of `vllm serve`, and why.

`make_plan` is a pure function of facts about the model, facts about the hardware, and wishes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from serving.errors import ConfigurationError
from serving.planning.request import Wishes
from serving.planning.search import best_candidate, divisors, every_candidate, wanted_length
from serving.units import GIB

if TYPE_CHECKING:
    from serving.hardware.gpu import Gpu, Hardware
    from serving.model.facts import ModelFacts
    from serving.planning.search import Candidate

__all__ = ["CONCURRENCY_TOKENS", "JSON_KEYS", "Plan", "Wishes", "make_plan"]

CONCURRENCY_TOKENS = (2048, 8192, 32_768, 131_072)
# The keys of `python -m serving plan --json`, in this order, all of them always.
JSON_KEYS = (
    "fits",
    "reason",
    "precision",
    "checkpoint",
    "tensor_parallel_size",
    "data_parallel_size",
    "max_model_len",
    "max_num_batched_tokens",
    "max_num_seqs",
    "kv_cache_tokens",
    "concurrency",
    "memory_gib",
    "args",
)


@dataclass(frozen=True)
class Plan:
    """Hold what to run; where nothing fits, only `fits`, `reason` and `alternatives` say anything.

    `kv_cache_tokens` and `concurrency` (requests at once, by their tokens; None beyond `max_model_len`) count all
    copies of the model. `memory_gib` splits one GPU (on the CPU engine: the process) into weights, activations,
    kv_cache, reserve and other_processes. `args` is what follows `vllm serve`, `env` is added to its environment.
    `reasons` says why, for each choice; `reason` is all of them.
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
    args: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    alternatives: tuple[str, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    gated: bool = False

    @property
    def summary(self) -> str:
        """Return the plan in one line."""
        if not self.fits:
            return self.reason
        gpus = len(self.gpus)
        where = f"{gpus} GPU{'s' if gpus > 1 else ''}" if gpus else "the CPU"
        if gpus and (self.data_parallel_size or 1) > 1:
            where += f" ({self.data_parallel_size} copies)"
        usual = next((tokens for tokens in (8192, 2048) if self.concurrency.get(tokens) is not None), None)
        at_once = f", or {self.concurrency[usual]:.1f} requests of {usual:,}" if usual else ""
        return (
            f"Plan: {self.checkpoint} in {self.precision} on {where}, {self.max_model_len:,} tokens a request; the KV "
            f"cache holds {self.kv_cache_tokens:,} tokens{at_once}."
        )

    def as_json(self) -> dict[str, Any]:
        """Return the plan under JSON_KEYS, with null for what a plan that does not fit lacks."""
        values = {key: getattr(self, key) for key in JSON_KEYS}
        if not self.fits:
            return values | {"concurrency": None, "memory_gib": None, "args": None}
        return values | {
            "concurrency": {str(tokens): requests for tokens, requests in self.concurrency.items()},
            "args": list(self.args),
        }


def make_plan(model: ModelFacts, hardware: Hardware, wishes: Wishes) -> Plan:
    """Return the best plan, or one that says why nothing fits and what would.

    bf16 comes before fp8 before int4 while the wished context fits; `search.choose` says which of the layouts over the
    GPUs is best. Raises ConfigurationError where the wishes contradict the model.
    """
    _check(model, wishes)
    tried = every_candidate(model, hardware, wishes)
    chosen = best_candidate(tried, wanted_length(model, wishes))
    if chosen is not None:
        return _plan(model, hardware, wishes, chosen)
    from serving.planning.alternatives import alternatives
    from serving.planning.shortfall import shortfall

    others = alternatives(model, hardware, wishes)
    nearest = f" What would fit: {'; '.join(others)}." if others else ""
    return Plan(fits=False, reason=shortfall(model, hardware, wishes, tried) + nearest, alternatives=others)


def _check(model: ModelFacts, wishes: Wishes) -> None:
    """Raise ConfigurationError for wishes that no hardware could meet."""
    if wishes.dtype == "float16" and model.gemma:
        raise ConfigurationError(
            "SERVE_DTYPE='float16' is not allowed with Gemma 3, which is numerically unstable in it: use bfloat16."
        )
    if wishes.max_model_len is not None and wishes.max_model_len > model.max_model_len:
        raise ConfigurationError(
            f"SERVE_MAX_MODEL_LEN={wishes.max_model_len} is not allowed: {model.name} was made for at most "
            f"{model.max_model_len} tokens."
        )
    tensor = wishes.tensor_parallel_size
    if tensor is not None and tensor not in (allowed := divisors(model, 64)):
        raise ConfigurationError(
            f"SERVE_TENSOR_PARALLEL_SIZE={tensor} is not allowed: the {model.heads} attention heads and "
            f"{model.kv_heads} KV heads of {model.name} can be divided among {', '.join(map(str, allowed))} GPUs."
        )
    tokens, seqs = wishes.max_num_batched_tokens, wishes.max_num_seqs
    if tokens is not None and seqs is not None and tokens < seqs:
        raise ConfigurationError(
            f"SERVE_MAX_NUM_BATCHED_TOKENS={tokens} is not allowed: it must be at least SERVE_MAX_NUM_SEQS={seqs}."
        )
    if wishes.precision != "auto" and model.checkpoint(wishes.precision) is None:
        there = ", ".join(item.precision for item in model.checkpoints)
        raise ConfigurationError(
            f"SERVE_PRECISION={wishes.precision!r} is not allowed: of {model.name} there is {there} alone."
        )


def _plan(model: ModelFacts, hardware: Hardware, wishes: Wishes, chosen: Candidate) -> Plan:
    from serving.planning.explanation import reasons

    why = reasons(model, hardware, wishes, chosen)
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
        args=_arguments(model, wishes, chosen),
        env=_environment(hardware, chosen),
        reasons=why,
        gpus=chosen.gpus,
        gated=chosen.checkpoint.gated,
    )


def _memory(chosen: Candidate) -> dict[str, float]:
    parts = {"weights": chosen.weights, "activations": chosen.activations, "kv_cache": chosen.kv_bytes}
    parts |= {"reserve": 0, "other_processes": 0}
    if chosen.gpus:
        tightest = min(chosen.gpus, key=lambda gpu: gpu.total_bytes)
        parts["other_processes"] = tightest.total_bytes - tightest.free_bytes
        parts["reserve"] = max(0, tightest.total_bytes - sum(parts.values()))
    return {part: round(size / GIB, 2) for part, size in parts.items()}


def _arguments(model: ModelFacts, wishes: Wishes, chosen: Candidate) -> tuple[str, ...]:
    """Return what follows `vllm serve`: the checkpoint, and what sizes the engine."""
    args = [chosen.checkpoint.name, "--dtype", chosen.compute.dtype]
    if chosen.gpus:
        args += ["--tensor-parallel-size", str(chosen.tensor_parallel)]
    if chosen.data_parallel > 1:
        args += ["--data-parallel-size", str(chosen.data_parallel)]
    args += ["--max-model-len", str(chosen.longest)]
    args += ["--max-num-batched-tokens", str(chosen.batch.max_num_batched_tokens)]
    args += ["--max-num-seqs", str(chosen.batch.max_num_seqs)]
    if chosen.gpus:
        args += ["--gpu-memory-utilization", f"{chosen.utilization:g}"]
    else:
        args += ["--enforce-eager", "--kv-cache-memory-bytes", str(chosen.kv_bytes)]
    if wishes.text_only and (model.vision or not model.gemma):  # other families may have a tower that is not known
        args.append("--language-model-only")
    return tuple(args)


def _environment(hardware: Hardware, chosen: Candidate) -> dict[str, str]:
    """Return what makes vLLM open the chosen GPUs where there are others, in the order in which NVML counts them.

    On the CPU engine: the size of the KV cache, which in the environment wins over the argument, but is in whole GiB.
    """
    if not chosen.gpus:
        whole = chosen.kv_bytes % GIB == 0
        return {"VLLM_CPU_KVCACHE_SPACE": str(chosen.kv_bytes // GIB)} if whole else {}
    if len(chosen.gpus) == len(hardware.gpus) and not hardware.restricted:
        return {}
    left = list(enumerate(hardware.gpus))
    ids = []
    for gpu in chosen.gpus:
        index = next(position for position, (_, other) in enumerate(left) if other is gpu or other == gpu)
        number, _ = left.pop(index)
        ids.append((number, gpu.id or str(number)))
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(name for _, name in sorted(ids))}
