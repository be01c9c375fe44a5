"""What a GPU's memory goes to before any KV cache: weights, activations, CUDA's own, and the reserve.

vLLM takes a share of each GPU (`gpu_memory_utilization`), loads the weights, runs its largest batch once and measures;
what is left of the share is KV cache (`vllm/v1/worker/gpu_worker.py`, `determine_available_memory`). The measured part
is estimated here. vLLM documents no such figures: these are the terms by which the memory grows, fitted to public logs,
which `tests/serving/planning/public_logs.py` holds. They are meant to be rather too large than too small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from serving.model.facts import LOADED
from serving.units import GIB

if TYPE_CHECKING:
    from serving.model.facts import ModelFacts

DEFAULT_UTILIZATION = 0.92  # vLLM 0.32's own (`vllm/config/cache.py`)
# Where the GPU's memory is the host's (GB10, Thor), vLLM's default takes the machine down: above about 0.8 it stops
# answering, without an error (vllm-project/vllm#46307, NVIDIA/open-gpu-kernel-modules#1358). vLLM's own processes hold
# some 6 GiB of the host's part, and the files that the weights are read from go through it.
UNIFIED_UTILIZATION = 0.8
UNIFIED_HOST_GIB = 16
CONTEXT_GIB = 0.6  # CUDA's context, kernels, and what PyTorch keeps
GRAPHS_GIB = 0.5  # captured CUDA graphs; twice that with many sequences
COLLECTIVES_GIB = 0.3  # NCCL's buffers where GPUs share a model
IMAGE_GIB = 0.107  # the vision tower at work, for each image of 256 tokens in the largest batch
IMAGE_TOKENS = 256
# The sampler, for each sequence and word of the vocabulary. Logs of engines with 1,024 sequences show what sorting the
# logits takes (Gemma 3 27B about 10 GiB, gpt-oss-20b 7.4, Llama 3.3 70B 4.8); those with few show much less.
SAMPLER_BYTES = 16
SAMPLER_BYTES_MANY = 39
MANY_SEQUENCES = 256


@dataclass(frozen=True)
class Batch:
    """The largest batch that the engine runs, which is what its activations are measured with."""

    max_num_batched_tokens: int
    max_num_seqs: int


def weights_bytes(weight_bytes: int, tensor_parallel: int = 1, *, replicated: int = 0, loaded: float = LOADED) -> int:
    """Return what the weights take on each of the GPUs that share them, all but `replicated` bytes.

    `loaded` is how much more they take than that, on the GPU.
    """
    return int((replicated + (weight_bytes - replicated) / tensor_parallel) * loaded)


def adapter_bytes(model: ModelFacts, rank: int, slots: int, *, tensor_parallel: int = 1, size: int = 2) -> int:
    """Return what room for adapters takes on each GPU: two thin matrices for each linear layer, in every slot.

    Of a layer that is cut by its outputs the second is cut too, of one that is cut by its inputs the first is
    (`vllm/lora/layers`). What adapters take of experts is not counted.
    """
    total = 0
    for layers in model.kv_layers:
        if layers.kind == "state":
            continue
        query, key = model.heads * layers.head_dim, layers.heads * layers.head_dim
        by_outputs = (query, key, key, model.intermediate, model.intermediate)
        by_inputs = (query, model.intermediate)
        total += layers.count * sum(model.hidden + width // tensor_parallel for width in (*by_outputs, *by_inputs))
    return total * rank * slots * size


def activation_bytes(
    model: ModelFacts,
    batch: Batch,
    *,
    tensor_parallel: int = 1,
    images: bool = True,
    eager: bool = False,
    size: int = 2,
) -> int:
    """Return what a GPU needs besides weights and KV cache; `size` is the bytes of one computed number.

    The tables that vLLM makes beside the weights, and the largest of three peaks that do not coincide: the widest layer
    (6 x intermediate + 12 x hidden bytes a token), the sampler, and the vision tower.
    """
    many = batch.max_num_seqs > MANY_SEQUENCES
    layer = batch.max_num_batched_tokens * (6 * model.intermediate + 12 * model.hidden) * size / 2
    sampler = batch.max_num_seqs * model.vocab * (SAMPLER_BYTES_MANY if many else SAMPLER_BYTES)
    image = (model.family.image_tokens if model.family else 0) or IMAGE_TOKENS
    tower = batch.max_num_batched_tokens / image * IMAGE_GIB * GIB if images and model.vision else 0
    graphs = 0.0 if eager else GRAPHS_GIB * (1 + many)
    fixed = CONTEXT_GIB + graphs + (COLLECTIVES_GIB if tensor_parallel > 1 else 0)
    return int(fixed * GIB + max(layer, sampler, tower)) + (model.buffer_bytes or 0)
