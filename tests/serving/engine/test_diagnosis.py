"""The lines are vLLM 0.32's, torch's and huggingface_hub's own."""

import pytest

from serving.engine.diagnosis import diagnose

CASES = {
    "SERVE_MAX_MODEL_LEN=103312": "ValueError: To serve at least one request with the model's max seq len (131072), (17.98 GiB KV cache is needed, which is larger than the available KV cache memory (15.9 GiB). Based on the available memory, the estimated maximum model length is 103312. Try increasing",
    "lower SERVE_MAX_MODEL_LEN.": "ValueError: To serve at least one request with the model's max seq len (131072), (17.98 GiB KV cache is needed, which is larger than the available KV cache memory (0.1 GiB). Try increasing",
    "leave no memory for the KV cache": "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`",
    "Only 12.5 of the GPU's 79.2 GiB are free": "ValueError: Free memory on device cuda:0 (12.5/79.2 GiB) on startup is less than desired GPU memory utilization (0.92, 72.9 GiB).",
    "ran out of memory": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
    "float16": "ValueError: The model type 'gemma3' does not support float16. Reason: Numerical instability.",
    "HF_TOKEN to a token of that account": "huggingface_hub.errors.GatedRepoError: 401 Client Error.",
    "check SERVE_MODEL": "OSError: nobody/nothing is not a local folder and is not a valid model identifier listed on",
    "SERVE_PORT": "OSError: [Errno 98] Address already in use",
    "does not know --foo=1": "vllm: error: unrecognized arguments: --foo=1",
    "value of --max-num-seqs": "vllm serve: error: argument --max-num-seqs: invalid int value: 'x'",
    "disk is full": "OSError: [Errno 28] No space left on device",
    "Hugging Face cannot be reached": "OSError: We couldn't connect to 'https://huggingface.co' to load the files",
    "found no GPU": "RuntimeError: Failed to infer device type, please set the environment variable",
    "config.json": "ValueError: Invalid repository ID or local directory specified: 'x'.",
}


@pytest.mark.parametrize(("expected", "line"), list(CASES.items()))
def test_a_known_text_becomes_one_sentence_that_says_what_to_do(expected, line):
    sentence = diagnose(
        ["(EngineCore pid=1) INFO something", line, "RuntimeError: Engine core initialization failed."], 1
    )
    assert expected in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("code", "expected"), [(-9, "SIGKILL"), (-4, "AVX2"), (-11, "by signal 11"), (7, "with status 7")]
)
def test_an_unknown_end_says_how_it_ended(code, expected):
    assert expected in diagnose(["nothing of note"], code)
