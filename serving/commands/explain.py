"""`python -m serving explain`: read any vLLM log, and say in one sentence why vLLM ended and what to do."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from serving.engine.diagnosis import FailureReader
from serving.errors import ConfigurationError

if TYPE_CHECKING:
    import argparse

LINE_BYTES = 2**20  # a longer line is read in pieces

# For those who start vLLM without the kit.
ARGUMENTS = {
    "SERVE_MODEL": "the model's name",
    "SERVE_MAX_MODEL_LEN": "--max-model-len",
    "SERVE_MAX_NUM_SEQS": "--max-num-seqs",
    "SERVE_MAX_NUM_BATCHED_TOKENS": "--max-num-batched-tokens",
    "SERVE_GPU_MEMORY_UTILIZATION": "--gpu-memory-utilization",
    "SERVE_TENSOR_PARALLEL_SIZE": "--tensor-parallel-size",
    "SERVE_DTYPE": "--dtype",
    "SERVE_PORT": "--port",
    "SERVE_EXTRA_ARGS": "the command line",
    "SERVE_KV_CACHE_SPACE_GIB": "VLLM_CPU_KVCACHE_SPACE",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `explain`."""
    parser.add_argument("file", nargs="?", default="-", metavar="FILE", help="a log of vLLM's; - or nothing: stdin")
    parser.add_argument("--status", type=int, metavar="N", help="what vLLM ended with (-9 or 137: killed)")


def run(args: argparse.Namespace) -> int:
    """Print the sentence; return 0 if the failure is known, 1 if not. Raises ConfigurationError for no such file."""
    reader = FailureReader()
    try:
        with sys.stdin.buffer if args.file == "-" else Path(args.file).open("rb") as log:
            for raw in iter(lambda: log.readline(LINE_BYTES), b""):
                reader.take(raw.decode("utf-8", "replace").rstrip().rpartition("\r")[2])
    except OSError as error:
        raise ConfigurationError(f"FILE {args.file!r} cannot be read: {error.strerror}.") from error
    cause = reader.cause(args.status)
    print(cause.sentence)
    said = [f"{name} is {ARGUMENTS[name]}" for name in re.findall(r"SERVE_\w+", cause.sentence) if name in ARGUMENTS]
    if said:
        print(f"(In vLLM's own words: {', '.join(dict.fromkeys(said))}.)")
    return 0 if cause.known else 1
