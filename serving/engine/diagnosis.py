"""Why vLLM ended, in one sentence: what its log says, turned into what to do.

The patterns are the texts of vLLM 0.32, of torch and of huggingface_hub; the first that matches wins, so the specific
ones stand first.
"""

from __future__ import annotations

import re
import signal

_KNOWN: tuple[tuple[str, str], ...] = (
    (
        r"max seq len \((?P<wish>\d+)\).*?estimated maximum model length is (?P<fits>\d+)",
        "The KV cache cannot hold one request of {wish} tokens: set SERVE_MAX_MODEL_LEN={fits} (the most that fits), "
        "lower SERVE_MAX_NUM_BATCHED_TOKENS, or raise SERVE_GPU_MEMORY_UTILIZATION.",
    ),
    (
        r"max seq len \((?P<wish>\d+)\)",
        "The KV cache has no room for one request of {wish} tokens: lower SERVE_MAX_MODEL_LEN.",
    ),
    (
        r"Cannot auto-fit max_model_len|No available memory for the cache blocks",
        "The weights leave no memory for the KV cache: raise SERVE_GPU_MEMORY_UTILIZATION, lower "
        "SERVE_MAX_NUM_BATCHED_TOKENS and SERVE_MAX_NUM_SEQS, or see `make plan` for what fits.",
    ),
    (
        r"Free memory on device \S+ \((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\)",
        "Only {free} of the GPU's {total} GiB are free: another process holds the rest (`nvidia-smi` names it): "
        "end it, or lower SERVE_GPU_MEMORY_UTILIZATION.",
    ),
    (
        r"CUDA out of memory|torch\.OutOfMemoryError|CUDA error: out of memory",
        "The GPU ran out of memory: lower SERVE_GPU_MEMORY_UTILIZATION, SERVE_MAX_NUM_SEQS or "
        "SERVE_MAX_NUM_BATCHED_TOKENS, or see `make plan` for what fits.",
    ),
    (
        r"does not support float16|Bfloat16 is only supported on GPUs with compute capability",
        "Gemma 3 cannot run in float16 (it overflows) and this GPU or SERVE_DTYPE excludes bfloat16: use a GPU of "
        "compute capability 8.0 or more and leave SERVE_DTYPE unset.",
    ),
    (
        r"GatedRepoError|gated repo|Access to model \S+ is restricted",
        "The model is gated and this machine has no access: accept its licence on its Hugging Face page, then set "
        "HF_TOKEN to a token of that account.",
    ),
    (
        r"RepositoryNotFoundError|is not a local folder and is not a valid model identifier|Repository Not Found",
        "There is no such model on Hugging Face, or it is private and HF_TOKEN is missing: check SERVE_MODEL.",
    ),
    (
        r"(?i)\[Errno 98\]|address already in use",
        "The port was taken while vLLM started: stop what holds it, or set SERVE_PORT to another port.",
    ),
    (
        r"unrecognized arguments: (?P<flags>[^\n]+)",
        "vLLM does not know {flags}: check SERVE_EXTRA_ARGS (`vllm serve --help=all` lists what it knows).",
    ),
    (
        r"error: argument (?P<flag>--[\w-]+)[^:]*: (?P<why>[^\n]+)",
        "vLLM refuses the value of {flag} ({why}): check SERVE_EXTRA_ARGS and the SERVE_* settings.",
    ),
    (
        r"No space left on device",
        "The disk is full: free some space where the weights go (HF_HOME), or point HF_HOME at a larger disk.",
    ),
    (
        r"LocalEntryNotFoundError|couldn't connect to|Max retries exceeded|Temporary failure in name resolution",
        "The model is not on this machine and Hugging Face cannot be reached: check the network, "
        "or set SERVE_MODEL to a folder.",
    ),
    (
        r"Failed to infer device type|NVIDIA driver on your system is too old|no CUDA-capable device",
        "vLLM found no GPU that it can use: `nvidia-smi` must work, with a driver that its CUDA build supports "
        "(`make doctor` checks).",
    ),
    (
        r"does not appear to have a file named config\.json|Invalid repository ID or local directory",
        "SERVE_MODEL holds no model that vLLM can read: it must be a folder with a config.json, "
        "or a name on Hugging Face.",
    ),
)


def diagnose(lines: list[str], returncode: int | None) -> str:
    """Return one sentence on why vLLM ended with `returncode` (negative: a signal) after logging `lines`."""
    text = "\n".join(lines)
    for pattern, advice in _KNOWN:
        if match := re.search(pattern, text, re.DOTALL if "estimated" in pattern else 0):
            return advice.format(**match.groupdict())
    if returncode == -signal.SIGKILL:
        return "vLLM was killed (SIGKILL): by hand, or by the system for want of memory (`dmesg` tells)."
    if returncode == -signal.SIGILL:
        return "This processor lacks an instruction that vLLM's build needs (the CPU build wants AVX2)."
    how = f"with status {returncode}" if returncode is None or returncode >= 0 else f"by signal {-returncode}"
    return f"vLLM ended {how}: its last lines say why."
