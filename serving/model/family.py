"""What goes with a family of models beside its sizes: how it is asked, and how its answers are read.

Sources: vLLM 0.32's registries of parsers and models; the makers' advice on sampling. The sizes of the two families
that are shipped here stand in `gemma3` and `gemma4`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Speculation = Literal["ngram", "mtp", "eagle3"]
OWN_TOOL_PARSER = "python_calls"  # the kit's, in `vllm_side/tool_parser`; all other names are vLLM's


@dataclass(frozen=True)
class Family:
    """What goes with a family of models.

    `model_types` are those of its config.json, where `vocab` is given too those with that vocabulary alone. None as
    `tool_parser` or `reasoning_parser`: none is known that goes with each of its models. `tools_cost_nothing`: a server
    that knows tools answers a request without any as one that does not. The kit's `chat_template` is a file in
    `vllm_side/templates`, None: the checkpoint's own. `sampling` is the makers' advice. `image_tokens` is what an image
    takes, 0 for a text model. `alternating`: its template wants user and assistant in turn. `float16`: whether vLLM
    lets it compute in that. `speculation` are the ways to draft that vLLM has for it; `assistants` (for mtp) and
    `eagle3` name the drafts, by what the name of their model holds.
    """

    name: str
    model_types: tuple[str, ...]
    tool_parser: str | None = None
    reasoning_parser: str | None = None
    tools_cost_nothing: bool = False
    chat_template: str | None = None
    sampling: Mapping[str, float] = field(default_factory=dict)
    image_tokens: int = 0
    alternating: bool = False
    float16: bool = True
    speculation: tuple[Speculation, ...] = ("ngram",)
    assistants: Mapping[str, str] = field(default_factory=dict)
    eagle3: Mapping[str, str] = field(default_factory=dict)
    vocab: int | None = None


GEMMA3 = Family(
    "Gemma 3",
    ("gemma3", "gemma3_text"),
    tool_parser=OWN_TOOL_PARSER,
    tools_cost_nothing=True,
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
        f"gemma-4-{size.lower()}": f"google/gemma-4-{size}-it-assistant"
        for size in ("E2B", "E4B", "12B", "26B-A4B", "31B")
    },
    eagle3={f"gemma-4-{size.lower()}": f"RedHatAI/gemma-4-{size}-it-speculator.eagle3" for size in ("26B-A4B", "31B")},
)
# Families whose sizes are read or asked for. Of those that think or not by turns, by template or by checkpoint, vLLM's
# reasoning parsers take an answer without thoughts for a thought: they are left to SERVE_EXTRA_ARGS.
OTHERS = (
    Family("Qwen 3", ("qwen3", "qwen3_moe"), "hermes"),
    Family("Qwen 3 Next", ("qwen3_next",), "hermes"),
    Family("Qwen 2", ("qwen2", "qwen2_moe"), "hermes"),
    Family("gpt-oss", ("gpt_oss",), "openai"),
    Family("Llama 3", ("llama",), "llama3_json", vocab=128_256),
    Family("Llama 4", ("llama4", "llama4_text"), "llama4_pythonic", image_tokens=144),
    Family("Mistral", ("mistral3", "ministral3"), "mistral"),
    Family("DeepSeek 3", ("deepseek_v3",), "deepseek_v3"),
)
FAMILIES = (GEMMA3, GEMMA4, *OTHERS)


def family_of(config: Mapping[str, Any]) -> Family | None:
    """Return the family of a model with this config.json, None if it is none of those that are known here."""
    text = config.get("text_config") or config
    kinds = {config.get("model_type"), text.get("model_type")}
    return next(
        (
            family
            for family in FAMILIES
            if kinds & set(family.model_types) and family.vocab in (None, text.get("vocab_size"))
        ),
        None,
    )
