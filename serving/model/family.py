"""What goes with a family of models beside its sizes: how it is asked, and how its answers are read.

Sources: vLLM 0.32's registries of parsers and models; the makers' advice on sampling. The tables of the two families
that are shipped here stand next to their sizes, in `gemma3` and `gemma4`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Speculation = Literal["ngram", "mtp", "eagle3"]


@dataclass(frozen=True)
class Family:
    """What goes with a family of models.

    `tool_parser` and `reasoning_parser` are vLLM's names, or that of the kit's own; None: it has none. The kit's
    `chat_template` is a file in `vllm_side/templates`, None: the checkpoint's own. `sampling` is the makers' advice.
    `image_tokens` is what an image takes, 0 for a text model. `alternating`: its template wants the turns of user and
    assistant in turn. `float16`: whether vLLM lets it compute in that. `assistants` are the drafts for "mtp" by the
    model that they go with, `eagle3` likewise.
    """

    name: str
    model_types: tuple[str, ...]
    tool_parser: str | None = None
    reasoning_parser: str | None = None
    chat_template: str | None = None
    sampling: Mapping[str, float] = field(default_factory=dict)
    image_tokens: int = 0
    alternating: bool = False
    float16: bool = True
    speculation: tuple[Speculation, ...] = ("ngram",)
    assistants: Mapping[str, str] = field(default_factory=dict)
    eagle3: Mapping[str, str] = field(default_factory=dict)


GEMMA3 = Family(
    "Gemma 3",
    ("gemma3", "gemma3_text"),
    tool_parser="pythonic",
    chat_template="gemma3.jinja",
    sampling={"temperature": 1.0, "top_k": 64, "top_p": 0.95, "min_p": 0.0},
    image_tokens=256,
    alternating=True,
    float16=False,
    # EAGLE3 is not for it (`gemma3_mm.py` lacks SupportsEagle3), nor is a draft: only the 27B, 12B and 4B are worth
    # one, and the 1B and 270M that could be it have another vocabulary.
    speculation=("ngram",),
)
GEMMA4 = Family(
    "Gemma 4",
    ("gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text"),
    tool_parser="gemma4",
    reasoning_parser="gemma4",
    sampling={"temperature": 1.0, "top_k": 64, "top_p": 0.95},
    image_tokens=280,
    speculation=("ngram", "mtp", "eagle3"),
    assistants={
        f"google/gemma-4-{size.lower()}-it": f"google/gemma-4-{size}-it-assistant"
        for size in ("E2B", "E4B", "26B-A4B", "31B")
    },
    eagle3={
        f"google/gemma-4-{size.lower()}-it": f"RedHatAI/gemma-4-{size}-it-speculator.eagle3"
        for size in ("26B-A4B", "31B")
    },
)
# The parsers of vLLM 0.32 for families whose sizes are read or asked for.
OTHERS = (
    Family("Qwen 3", ("qwen3", "qwen3_moe"), "hermes", "qwen3", speculation=("ngram",)),
    Family("Qwen 3 Coder and Next", ("qwen3_next",), "qwen3_coder", None, speculation=("ngram", "mtp")),
    Family("Qwen 2", ("qwen2", "qwen2_moe"), "hermes"),
    Family("gpt-oss", ("gpt_oss",), "openai", "openai_gptoss"),
    Family("Llama 3", ("llama",), "llama3_json"),
    Family("Llama 4", ("llama4", "llama4_text"), "llama4_pythonic", image_tokens=144),
    Family("Mistral", ("mistral", "mistral3", "ministral3"), "mistral"),
    Family("DeepSeek 3", ("deepseek_v3",), "deepseek_v3", "deepseek_r1", speculation=("ngram", "mtp")),
)
FAMILIES = (GEMMA3, GEMMA4, *OTHERS)


def family_of(config: Mapping[str, Any]) -> Family | None:
    """Return the family of a model with this config.json, None if it is none of those that are known here."""
    kinds = {config.get("model_type"), (config.get("text_config") or {}).get("model_type")}
    return next((family for family in FAMILIES if kinds & set(family.model_types)), None)
