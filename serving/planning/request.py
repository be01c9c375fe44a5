"""What the user asked of the plan: the settings, and the arguments of `vllm serve` that change the arithmetic."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from serving.errors import ConfigurationError
from serving.planning.words import Words
from serving.settings import DEFAULT_CONTEXT
from serving.units import GIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from serving.settings import ServeSettings

# The bytes of one number in the KV cache; "auto" is that of the computation.
KV_BYTES = {"fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class PlanRequest:
    """What is asked of the plan: wished or fixed. `None` and "auto" leave the choice to the plan.

    `context` is the least length that a plan must offer; `max_model_len` fixes it. The rest has vLLM's names;
    `cpu_kv_bytes` is the CPU engine's memory for the KV cache, `kv_cache_bytes` any engine's, as an argument of vLLM.
    `kv_skip_sliding` leaves sliding layers out of `kv_cache_dtype`, where there are others. `quantization` is done as
    plain weights are loaded. `lora_slots` adapters of `lora_rank` and a draft of `draft_bytes` take memory too;
    `not_counted` are the arguments that take memory which is not planned. `off` hands everything on to vLLM unplanned.
    `words` are what the user calls all that.
    """

    context: int = DEFAULT_CONTEXT
    precision: Literal["auto", "bf16", "fp8", "int4"] = "auto"
    text_only: bool = False
    max_model_len: int | None = None
    tensor_parallel_size: int | None = None
    data_parallel_size: int | None = None
    gpu_memory_utilization: float | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    dtype: Literal["auto", "bfloat16", "float32", "float16"] = "auto"
    cpu_kv_bytes: int | None = None
    kv_cache_bytes: int | None = None
    kv_cache_dtype: str = "auto"
    kv_skip_sliding: bool = False
    hybrid: bool = True
    async_scheduling: bool = True
    enforce_eager: bool = False
    block_size: int | None = None
    quantization: Literal["fp8"] | None = None
    lora_rank: int = 0
    lora_slots: int = 0
    draft_bytes: int = 0
    off: bool = False
    not_counted: tuple[str, ...] = ()
    words: Words = field(default_factory=Words)

    @classmethod
    def from_settings(cls, settings: ServeSettings, words: Words | None = None) -> PlanRequest:
        """Return what the settings ask for. SERVE_EXTRA_ARGS win over the other variables, as in vLLM itself."""
        space = settings.kv_cache_space_gib
        request = cls(
            context=settings.context,
            precision=settings.precision,
            text_only=settings.text_only,
            max_model_len=None if settings.max_model_len == "auto" else settings.max_model_len,
            tensor_parallel_size=None if settings.tensor_parallel_size == "auto" else settings.tensor_parallel_size,
            gpu_memory_utilization=settings.gpu_memory_utilization,
            max_num_seqs=settings.max_num_seqs,
            max_num_batched_tokens=settings.max_num_batched_tokens,
            dtype=settings.dtype,
            cpu_kv_bytes=None if space is None else int(space * GIB),
            kv_cache_dtype=settings.kv_cache_dtype,
            kv_skip_sliding=settings.kv_cache_dtype != "auto",
            quantization=settings.quantization,
            off=settings.plan == "off",
            words=words or Words(),
        )
        return request.with_arguments(settings.extra_args)

    def with_arguments(self, arguments: tuple[str, ...]) -> PlanRequest:
        """Return this request with the arguments of `vllm serve` that change the arithmetic; others do nothing.

        Raises ConfigurationError for a value that cannot be read, and for pipeline parallelism, which is not planned.
        """
        changes: dict[str, Any] = {}
        not_counted: list[str] = []
        given = dict(self.words.given)
        words = list(arguments)
        while words:
            word = words.pop(0)
            if not word.startswith("-"):
                continue
            flag, _, value = word.partition("=")
            flag = flag.replace("_", "-")
            if flag in _NOT_COUNTED:
                not_counted.append(flag)
            if flag == "--kv-cache-dtype":
                changes["kv_skip_sliding"] = False
            if flag in _SWITCHES:
                name, state = _SWITCHES[flag]
                changes[name] = state
            elif flag in _VALUES:
                name, read = _VALUES[flag]
                if not value and words:
                    value = words.pop(0)
                given[name] = f"SERVE_EXTRA_ARGS: {flag}"
                try:
                    changes[name] = read(value)
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise ConfigurationError(f"SERVE_EXTRA_ARGS: {flag} {value!r} is not allowed: {error}.") from error
        changes = {name: value for name, value in changes.items() if value is not _UNCHANGED}
        return replace(self, words=replace(self.words, given=given), not_counted=tuple(not_counted), **changes)


_UNCHANGED = object()


def _whole(text: str) -> int:
    """Read a number as vLLM does: `k`, `m`, `g` are powers of 1000, `K`, `M`, `G` of 1024."""
    scale = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1:], 1)
    try:
        number = float(text[:-1]) * scale if scale > 1 else int(text)
    except ValueError as error:
        raise ValueError("it must be a number") from error
    if number < 1 or number != int(number):
        raise ValueError("it must be a number, 1 or more")
    return int(number)


def _length(text: str) -> int | None:
    return None if text in ("auto", "-1") else _whole(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ValueError("it must be more than 0 and at most 1")
    return share


def _images(text: str) -> object:
    limit = json.loads(text).get("image", 1)
    return True if limit == 0 else _UNCHANGED


def _dtype(text: str) -> str:
    allowed = {"auto": "auto", "float": "float32", "half": "float16", "bfloat16": "bfloat16"}
    known = allowed | {"float32": "float32", "float16": "float16"}
    if text not in known:
        raise ValueError("it must be auto, bfloat16, float32 or float16")
    return known[text]


def _kv_dtype(text: str) -> str:
    if text not in KV_BYTES and text != "auto":
        raise ValueError(f"only auto, {', '.join(KV_BYTES)} are planned")
    return text


def _skipped(text: str) -> object:
    return True if text == "sliding_window" else _UNCHANGED


def _one(text: str) -> object:
    if _whole(text) != 1:
        raise ValueError("pipeline parallelism is not planned here, use SERVE_TENSOR_PARALLEL_SIZE")
    return _UNCHANGED


_SWITCHES: dict[str, tuple[str, bool]] = {
    "--language-model-only": ("text_only", True),
    "--disable-hybrid-kv-cache-manager": ("hybrid", False),
    "--no-disable-hybrid-kv-cache-manager": ("hybrid", True),
    "--async-scheduling": ("async_scheduling", True),
    "--no-async-scheduling": ("async_scheduling", False),
    "--enforce-eager": ("enforce_eager", True),
    "--no-enforce-eager": ("enforce_eager", False),
}
# What takes memory of the GPU, or gives it back, and is not planned when it is asked for by an argument.
_NOT_COUNTED = (
    *("--speculative-config", "-sc", "--spec-model", "--spec-method"),
    *("--enable-lora", "--lora-modules", "--max-loras", "--max-lora-rank"),
    *("--cpu-offload-gb", "--cpu-offload-params", "--offload-backend", "--offload-params", "--offload-group-size"),
    *("--kv-offloading-size", "--kv-transfer-config", "--quantization", "-q", "--hf-overrides"),
    *("--enable-expert-parallel", "--enable-eplb"),
    *("--decode-context-parallel-size", "-dcp", "--prefill-context-parallel-size", "-pcp"),
)
_VALUES: dict[str, tuple[str, Callable[[str], object]]] = {
    "--max-model-len": ("max_model_len", _length),
    "--max-num-seqs": ("max_num_seqs", _whole),
    "--max-num-batched-tokens": ("max_num_batched_tokens", _whole),
    "--gpu-memory-utilization": ("gpu_memory_utilization", _share),
    "--tensor-parallel-size": ("tensor_parallel_size", _whole),
    "-tp": ("tensor_parallel_size", _whole),
    "--data-parallel-size": ("data_parallel_size", _whole),
    "-dp": ("data_parallel_size", _whole),
    "--pipeline-parallel-size": ("pipeline_parallel_size", _one),
    "-pp": ("pipeline_parallel_size", _one),
    "--dtype": ("dtype", _dtype),
    "--kv-cache-dtype": ("kv_cache_dtype", _kv_dtype),
    "--kv-cache-dtype-skip-layers": ("kv_skip_sliding", _skipped),
    "--kv-cache-memory-bytes": ("kv_cache_bytes", _whole),
    "--block-size": ("block_size", _whole),
    "--limit-mm-per-prompt": ("text_only", _images),
}
