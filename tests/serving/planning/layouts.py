"""Layouts of layers, for asking vLLM's own allocation code about them and for comparing with what it said."""

from __future__ import annotations

import json
import os
import random
import subprocess
from pathlib import Path

from serving.model.facts import KvLayers, ModelFacts
from serving.planning.kv_cache import kv_layout
from tests.support.serving import ROOT

ENGINE_PYTHON = ROOT / ".venv-engine" / "bin" / "python"
SAID = Path(__file__).with_name("vllm_said.jsonl")  # `python -m tests.serving.planning.layouts` asks again
# Whose own code said it: 0.33.0 moved it (to kv_cache_planning.py) and answers 405 layouts, these among them, alike.
SAID_BY = ("0.32.0", "0.33.0")
GIB = 1024**3


def layer(kind, count, heads=8, head_dim=128, **more):
    return {"kind": kind, "count": count, "heads": heads, "head_dim": head_dim, **more}


def case(layers, tokens=8192, available=8 * GIB, **more):
    return {
        "layers": layers,
        "tensor_parallel": 1,
        "value_bytes": 2,
        "sliding_value_bytes": more.get("value_bytes", 2),
        "block_tokens": 16,
        "concurrent_batches": 2,
        "max_num_batched_tokens": 2048,
        "hybrid": True,
        "tokens": tokens,
        "available": available,
        "auto": False,
    } | more


def named():
    """Return a case for each kind of layout that a known model has."""
    gemma_3 = [layer("full", 10, 16), layer("sliding", 52, 16, window=1024)]
    gemma_4 = [layer("sliding", 50, 16, 256, window=1024), layer("full", 10, 4, 512)]
    gemma_4_e2b = [layer("sliding", 12, 1, 256, window=512), layer("full", 3, 1, 512)]
    gemma_4_12b = [layer("sliding", 40, 8, 256, window=1024), layer("full", 8, 1, 512)]
    states = [layer("state", 36, state_bytes=1_097_728, state_copies=2), layer("full", 12, 2, 256)]
    layouts = {
        "Gemma 3 27B": gemma_3,
        "Gemma 4 31B": gemma_4,
        "Gemma 4 E2B": gemma_4_e2b,
        "Gemma 4 12B": gemma_4_12b,
        "gpt-oss": [layer("sliding", 12, 8, 64, window=128), layer("full", 12, 8, 64)],
        "Llama 4": [layer("chunked", 36, window=8192), layer("full", 12)],
        "DeepSeek": [layer("latent", 27, 1, 576)],
        "Qwen 3 Next": states,
        "Jamba": [layer("state", 28, state_bytes=311_296, state_copies=1), layer("full", 4)],
        "only a window": [layer("sliding", 32, window=4096)],
        "only states": [layer("state", 48, state_bytes=500_000, state_copies=1)],
        "values of another width": [layer("full", 20, 4, 192, value_dim=128)],
        "two widths": [layer("full", 20, 4, 128), layer("full", 4, 8, 256)],
        "two windows": [layer("sliding", 12, window=512), layer("sliding", 12, window=4096), layer("full", 6)],
        "uneven": [layer("sliding", 9, 3, 96, window=512), layer("full", 3, 2, 128)],
        "nearly as many": [layer("sliding", 12, window=1024), layer("full", 13)],
    }
    for layers in layouts.values():
        for tokens, size, auto in ((20_000, 3 * GIB, True), (131_072, 19 * GIB + 12_345, True), (4096, 4 * GIB, False)):
            yield case(layers, tokens, size, auto=auto)
        yield case(layers, 8192, 2 * GIB, value_bytes=4, block_tokens=128, concurrent_batches=1)
        yield case(layers, 8192, 2 * GIB, tensor_parallel=4)
        yield case(layers, 131_072, 9 * GIB, value_bytes=1, sliding_value_bytes=1, auto=True)
    for layers in (gemma_3, gemma_4, gemma_4_12b):
        yield case(layers, 131_072, 9 * GIB, hybrid=False, auto=True)
        yield case(layers, 131_072, 9 * GIB, value_bytes=1, sliding_value_bytes=2, auto=True)
        yield case(layers, 20_000, 9 * GIB, max_num_batched_tokens=8192, tensor_parallel=2)


def drawn(count, seed=13):
    """Return so many cases of layouts as they come; other ones each time where `seed` is None."""
    dice = random.Random(seed)
    for _ in range(count):
        layers = []
        for kind in dice.sample(("full", "sliding", "chunked", "sliding"), dice.choice((1, 1, 2, 2, 3))):
            heads, head_dim = dice.choice((1, 2, 4, 8, 16)), dice.choice((64, 80, 96, 128, 192, 256, 512))
            more = {"window": dice.choice((128, 512, 1024, 4096, 8192))} if kind != "full" else {}
            layers.append(layer(kind, dice.randint(1, 60), heads, head_dim, **more))
        if "full" in {item["kind"] for item in layers} and dice.random() < 0.2:
            layers.append(layer("state", dice.randint(1, 40), state_bytes=dice.randint(1, 400) * 4096, state_copies=2))
        value = dice.choice((1, 2, 2, 2, 4))
        yield case(
            layers,
            dice.choice((1, 777, 4096, 32_768, 131_072)),
            dice.randint(1, 60) * GIB + dice.randint(0, GIB),
            value_bytes=value,
            sliding_value_bytes=value,
            tensor_parallel=dice.choice((1, 1, 2, 8)),
            max_num_batched_tokens=dice.choice((512, 2048, 8192)),
            concurrent_batches=dice.choice((1, 2)),
            auto=dice.random() < 0.6,
        )


def ask(cases):
    """Return what vLLM's own code says of each."""
    done = subprocess.run(
        [ENGINE_PYTHON, ROOT / "tests" / "support" / "vllm_allocation.py"],
        input=json.dumps(list(cases)),
        env=os.environ | {"VLLM_LOGGING_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def with_layers(*kv_layers):
    """Return a model of which only the layers matter."""
    return ModelFacts("layers", kv_layers, 32, 4096, 14_336, 128_256, 131_072, ())


def ours(asked):
    """Return the kit's layout of a case."""
    return kv_layout(
        with_layers(*(KvLayers(**item) for item in asked["layers"])),
        tensor_parallel=asked["tensor_parallel"],
        value_bytes=asked["value_bytes"],
        sliding_value_bytes=asked["sliding_value_bytes"],
        block_tokens=asked["block_tokens"],
        max_num_batched_tokens=asked["max_num_batched_tokens"],
        concurrent_batches=asked["concurrent_batches"],
        hybrid=asked["hybrid"],
    )


def difference(asked, said):
    """Return where the kit's arithmetic differs from vLLM's answer, None if it does not."""
    if "refused" in said:
        return None
    layout, tokens, available = ours(asked), asked["tokens"], asked["available"]
    length = layout.longest(available, tokens) if asked["auto"] else tokens
    found = {
        "block_bytes": layout.block_bytes,
        "need": layout.bytes(tokens),
        "groups": len(layout.groups),
        "starts": length > 0 and layout.fits(available, length),
    }
    if said["starts"] and found["starts"]:
        found["max_model_len"], found["tokens"] = length, layout.capacity(available, length)
        found["concurrency"] = layout.concurrency(available, length)
    return None if found == said else (asked, found, said)


if __name__ == "__main__":
    asked = [*named(), *drawn(80)]
    with SAID.open("w", encoding="utf-8") as file:
        for one, said in zip(asked, ask(asked), strict=True):
            file.write(json.dumps({"asked": one, "said": said}, separators=(",", ":")) + "\n")
