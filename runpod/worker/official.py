"""The variables of RunPod's own vLLM worker (runpod-workers/worker-vllm), for an endpoint that comes from there.

Without this they would be ignored in silence, and another model served than the one that was named. A variable that
says what one of the kit's says is taken over; any other that is known is answered with what stands in its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, MutableMapping

# Theirs and ours, with the same values. Of two for one of ours, the first counts.
TWINS = {
    "MODEL_NAME": "SERVE_MODEL",
    "OPENAI_SERVED_MODEL_NAME_OVERRIDE": "SERVE_SERVED_MODEL_NAME",
    "SERVED_MODEL_NAME": "SERVE_SERVED_MODEL_NAME",
    "MAX_MODEL_LEN": "SERVE_MAX_MODEL_LEN",
    "GPU_MEMORY_UTILIZATION": "SERVE_GPU_MEMORY_UTILIZATION",
    "TENSOR_PARALLEL_SIZE": "SERVE_TENSOR_PARALLEL_SIZE",
    "MAX_NUM_SEQS": "SERVE_MAX_NUM_SEQS",
    "MAX_NUM_BATCHED_TOKENS": "SERVE_MAX_NUM_BATCHED_TOKENS",
    "DTYPE": "SERVE_DTYPE",
    "ENABLE_AUTO_TOOL_CHOICE": "SERVE_TOOLS",
    "VLLM_EXTRA_ARGS": "SERVE_EXTRA_ARGS",
    "VLLM_STARTUP_TIMEOUT": "SERVE_STARTUP_TIMEOUT",
    "VLLM_PORT": "SERVE_PORT",
    "VLLM_API_KEY": "SERVE_API_KEY",
    "MAX_CONCURRENCY": "WORKER_MAX_CONCURRENCY",
    "BASE_PATH": "WORKER_VOLUME",
}
# vLLM's other words for a value, and values that leave the choice to it.
VALUES = {"DTYPE": {"half": "float16", "float": "float32"}, "MAX_NUM_BATCHED_TOKENS": {"0": ""}}

_NOTHING = "remove it: every event is forwarded as it comes"
_GONE = "remove it: vLLM has no such option any more"
_REMOVED = (
    "CUDA_GRAPH_SIZES", "DEVICE", "GUIDED_DECODING_BACKEND", "LORA_EXTRA_VOCAB_SIZE", "MAX_CONTEXT_LEN_TO_CAPTURE",
    "NUM_LOOKAHEAD_SLOTS", "ROPE_SCALING", "ROPE_THETA", "SCHEDULER_DELAY_FACTOR", "SWAP_SPACE", "TASK",
)  # fmt: skip
# What is done about the rest: for each name, the end of a sentence.
INSTEAD = {
    "QUANTIZATION": "set SERVE_PRECISION for Gemma 3; other checkpoints say by themselves how they are quantized",
    "TOOL_CALL_PARSER": "remove it for Gemma 3, whose parser comes with SERVE_TOOLS; else put --tool-call-parser into "
    "SERVE_EXTRA_ARGS",
    "REQUEST_TIMEOUT": "set the endpoint's execution timeout (DEPLOY_EXECUTION_TIMEOUT)",
    "RAW_OPENAI_OUTPUT": "remove it: it is always so",
    "DEFAULT_BATCH_SIZE": _NOTHING,
    "DEFAULT_MIN_BATCH_SIZE": _NOTHING,
    "DEFAULT_BATCH_SIZE_GROWTH_FACTOR": _NOTHING,
    "DISABLE_LOG_REQUESTS": "remove it: requests are not logged",
    "SPECULATIVE_METHOD": "put --speculative-config into SERVE_EXTRA_ARGS",
    "SPECULATIVE_MODEL": "put --speculative-config into SERVE_EXTRA_ARGS",
    "NUM_SPECULATIVE_TOKENS": "put --speculative-config into SERVE_EXTRA_ARGS",
    "OPENAI_RESPONSE_ROLE": "put --response-role into SERVE_EXTRA_ARGS",
    "MODEL_REVISION": "put --revision into SERVE_EXTRA_ARGS",
    "TOKENIZER_NAME": "put --tokenizer into SERVE_EXTRA_ARGS",
    "CUSTOM_CHAT_TEMPLATE": "put --chat-template into SERVE_EXTRA_ARGS",
    "VLLM_CONFIG_FILE": "put --config into SERVE_EXTRA_ARGS",
    **dict.fromkeys(_REMOVED, _GONE),
}
# Options of vLLM under their names in capitals. They need no list of their own values: vLLM reads them.
OPTIONS = frozenset(
    """
    ADDITIONAL_CONFIG ALLOWED_LOCAL_MEDIA_PATH ALLOWED_MEDIA_DOMAINS API_SERVER_COUNT ASYNC_SCHEDULING
    ATTENTION_BACKEND BLOCK_SIZE CALCULATE_KV_SCALES CHAT_TEMPLATE CHAT_TEMPLATE_CONTENT_FORMAT CODE_REVISION
    COMPILATION_CONFIG CPU_OFFLOAD_GB DATA_PARALLEL_SIZE DATA_PARALLEL_SIZE_LOCAL DEFAULT_MM_LORAS
    DISABLE_CASCADE_ATTN DISABLE_CHUNKED_MM_INPUT DISABLE_CUSTOM_ALL_REDUCE DISABLE_HYBRID_KV_CACHE_MANAGER
    DISABLE_LOG_STATS DISABLE_SLIDING_WINDOW DISABLE_UVICORN_ACCESS_LOG DISTRIBUTED_EXECUTOR_BACKEND
    DOWNLOAD_DIR ENABLE_CHUNKED_PREFILL ENABLE_EPLB ENABLE_EXPERT_PARALLEL ENABLE_FORCE_INCLUDE_USAGE
    ENABLE_LOG_OUTPUTS ENABLE_LOG_REQUESTS ENABLE_LORA ENABLE_PREFIX_CACHING ENABLE_PROMPT_EMBEDS
    ENABLE_PROMPT_TOKENS_DETAILS ENABLE_SLEEP_MODE ENABLE_TOKENIZER_INFO_ENDPOINT ENFORCE_EAGER EPLB_CONFIG
    EXCLUDE_TOOLS_WHEN_TOOL_CHOICE_NONE FULLY_SHARDED_LORAS GENERATION_CONFIG HF_CONFIG_PATH HF_OVERRIDES
    IGNORE_PATTERNS INTERLEAVE_MM_STRINGS KV_CACHE_DTYPE KV_CACHE_MEMORY_BYTES KV_OFFLOADING_BACKEND
    KV_OFFLOADING_SIZE KV_SHARING_FAST_PREFILL KV_TRANSFER_CONFIG LIMIT_MM_PER_PROMPT LOAD_FORMAT
    LOGITS_PROCESSORS LOGPROBS_MODE LONG_PREFILL_TOKEN_THRESHOLD LORA_DTYPE LORA_MODULES MAX_CPU_LORAS
    MAX_LOGPROBS MAX_LOG_LEN MAX_LORAS MAX_LORA_RANK MAX_PARALLEL_LOADING_WORKERS MEDIA_IO_KWARGS
    MM_PROCESSOR_CACHE_GB MM_PROCESSOR_KWARGS MODEL_IMPL MODEL_LOADER_EXTRA_CONFIG NUM_GPU_BLOCKS_OVERRIDE
    OTLP_TRACES_ENDPOINT OVERRIDE_ATTENTION_DTYPE OVERRIDE_GENERATION_CONFIG PIPELINE_PARALLEL_SIZE
    POOLER_CONFIG PREFIX_CACHING_HASH_ALGO REASONING_PARSER RESPONSE_ROLE RETURN_TOKENS_AS_TOKEN_IDS REVISION
    SAFETENSORS_LOAD_STRATEGY SCHEDULING_POLICY SEED SKIP_MM_PROFILING SKIP_TOKENIZER_INIT SPECULATIVE_CONFIG
    STRUCTURED_OUTPUTS_CONFIG TOKENIZER TOKENIZER_MODE TOKENIZER_REVISION TOOL_PARSER_PLUGIN TRUST_REMOTE_CODE
    TRUST_REQUEST_CHAT_TEMPLATE UVICORN_LOG_LEVEL
    """.split()  # noqa: SIM905 (a list would take a hundred lines)
)


def take_over(environment: MutableMapping[str, str], elsewhere: Iterable[str] = ()) -> list[str]:
    """Set ours in `environment` where theirs say the same; return a sentence for each of theirs that is there.

    One of ours that is set wins, also where it is set `elsewhere` (the names in `.env`). No sentence holds a value,
    which may be a secret.
    """
    ours = {name.upper() for name, value in environment.items() if value} | {name.upper() for name in elsewhere}
    sentences = []
    for name, twin in TWINS.items():
        value = environment.get(name, "").strip()
        value = VALUES.get(name, {}).get(value, value)
        if not value:
            continue
        if twin in ours:
            sentences.append(f"{_origin(name)} and does nothing: {twin} is set. Remove it.")
            continue
        environment[twin] = value
        ours.add(twin)
        sentences.append(f"{_origin(name)}: {twin} is set to the same. Rename it.")
    return [*sentences, *_answers(name for name, value in environment.items() if value)]


def answers(names: Iterable[str]) -> list[str]:
    """Return a sentence for each of `names` that is theirs, where nothing is taken over."""
    given = set(names)
    renamed = [f"{_origin(name)} and does nothing here: set {TWINS[name]}." for name in TWINS if name in given]
    return [*renamed, *_answers(given)]


def _answers(names: Iterable[str]) -> Iterator[str]:
    for name in sorted(names):
        if instead := INSTEAD.get(name) or (_as_option(name) if name in OPTIONS else None):
            yield f"{_origin(name)} and does nothing: {instead}."


def _as_option(name: str) -> str:
    return f"put --{name.lower().replace('_', '-')} into SERVE_EXTRA_ARGS"


def _origin(name: str) -> str:
    return f"{name} is a variable of RunPod's own vLLM worker"


def markdown() -> str:
    """Return the table for those who migrate."""
    lines = ["| there | here | |", "|---|---|---|"]
    lines += [f"| `{name}` | `{twin}` | taken over, with a warning |" for name, twin in TWINS.items()]
    lines += ["| `HF_TOKEN` | `HF_TOKEN` | the same |"]
    lines += [f"| `{name}` | | {instead} |" for name, instead in INSTEAD.items() if instead != _GONE]
    gone = ", ".join(f"`{name}`" for name, instead in INSTEAD.items() if instead == _GONE)
    lines += [f"| {gone} | | {_GONE} |"]
    lines += ["| any other option of vLLM, like `KV_CACHE_DTYPE` | | put `--kv-cache-dtype` into `SERVE_EXTRA_ARGS` |"]
    return "\n".join(lines)
