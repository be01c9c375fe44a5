"""What public logs of real GPUs say of Gemma 3 27B, in one table: what the planner is held against.

Only what a log or a report states stands here. Where a report leaves a setting open, vLLM's default for that GPU and
version does. V#n is an issue of vllm-project/vllm.
"""

from dataclasses import dataclass

BF16 = "google/gemma-3-27b-it"
W4A16 = "RedHatAI/gemma-3-27b-it-quantized.w4a16"
AWQ = "gaunernst/gemma-3-27b-it-int4-awq"
QAT = "gaunernst/gemma-3-27b-it-qat-compressed-tensors"


@dataclass(frozen=True)
class Log:
    """One start. `total_gib` is one GPU; None: the log does not tell what the other columns would need to be tested.

    `loaded_gib` is "Model loading took", `kv_gib` "Available KV cache memory", `tokens` "GPU KV cache size",
    `longest` the longest length that starts, `refused` a length that did not.
    """

    source: str
    checkpoint: str
    gpus: int
    total_gib: float | None
    utilization: float
    batched_tokens: int
    sequences: int
    hybrid: bool = True
    loaded_gib: float | None = None
    kv_gib: float | None = None
    tokens: int | None = None
    max_model_len: int | None = None
    longest: int | None = None
    refused: int | None = None

    def __str__(self) -> str:
        return self.source


LOGS = (
    Log(
        "V#20341",
        BF16,
        1,
        93.1,
        0.9,
        8192,
        1024,
        hybrid=False,
        loaded_gib=51.417,
        kv_gib=22.34,
        tokens=47_216,
        max_model_len=131_072,
    ),
    Log("V#15676", BF16, 4, 23.6, 0.9, 2048, 256, hybrid=False, loaded_gib=13.1665, tokens=54_048, max_model_len=8192),
    Log("V#16199", AWQ, 1, None, 0.9, 2048, 256, loaded_gib=17.611, refused=4096),
    Log("the qat build", QAT, 1, None, 0.9, 2048, 256, loaded_gib=17.42),
    # Lengths that follow from the logged weights by vLLM's own arithmetic, with nothing kept back.
    Log("an RTX 4090 and awq", AWQ, 1, 23.6, 0.92, 1024, 16, longest=15_168),
    Log("an RTX 4090 and qat", QAT, 1, 23.6, 0.92, 1024, 16, longest=17_680),
    Log("an RTX 5090, auto-fitted", W4A16, 1, 31.4, 0.9, 2048, 256, longest=120_080),
    Log("two RTX 3090", W4A16, 2, 23.6, 0.92, 2048, 128, kv_gib=12.0),
    Log("an L4 that did not start", W4A16, 1, 22.0, 0.92, 2048, 256, refused=16_384),
    Log("one H100 at vLLM's defaults", BF16, 1, 79.2, 0.92, 8192, 1024, refused=131_072),
)
