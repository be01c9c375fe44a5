"""What a model is served with: adapters (LoRA), and a draft that guesses tokens ahead (speculation).

Read from the adapter's folder and from the draft's checkpoint, in the cache or on the hub; nothing is downloaded. What
vLLM 0.32 refuses (`vllm/lora/peft_helper.py`, `vllm/config/lora.py`) is refused here before anything starts.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.errors import ConfigurationError
from serving.model.facts import KvLayers
from serving.model.hub_cache import cached_folder
from serving.model.weight_files import weight_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from serving.model.facts import ModelFacts
    from serving.model.hub import HubReader

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what `--max-lora-rank` takes
INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
# What vLLM is asked for. How many tokens ahead: what public scripts take that measured it, 3 to 5.
_NGRAM = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_min": 2, "prompt_lookup_max": 4}
TOKENS_AHEAD = 3


@dataclass(frozen=True)
class Adapter:
    """One adapter: the name that requests call it by, its folder, and its largest rank."""

    name: str
    path: Path
    rank: int


@dataclass(frozen=True)
class Draft:
    """How tokens are guessed ahead. `name` is the draft's checkpoint, None where the text itself is looked into."""

    method: str
    name: str | None = None
    weight_bytes: int = 0
    kv_layers: tuple[KvLayers, ...] = ()

    @property
    def config(self) -> dict[str, Any]:
        """What `--speculative-config` takes."""
        if self.name is None:
            return dict(_NGRAM)
        return {"method": self.method, "model": self.name, "num_speculative_tokens": TOKENS_AHEAD}


@dataclass(frozen=True)
class Additions:
    """What a model is served with."""

    adapters: tuple[Adapter, ...] = ()
    draft: Draft | None = None

    @property
    def rank(self) -> int:
        """The rank that vLLM makes room for: the least that it takes and that holds every adapter."""
        most = max((adapter.rank for adapter in self.adapters), default=0)
        return next((rank for rank in RANKS if rank >= most), RANKS[-1]) if most else 0

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments of `vllm serve` that ask for it."""
        found: list[str] = []
        if self.adapters:
            found += ["--enable-lora", "--max-loras", str(len(self.adapters)), "--max-lora-rank", str(self.rank)]
            found += ["--lora-modules", *(f"{adapter.name}={adapter.path}" for adapter in self.adapters)]
        if self.draft is not None:
            found += ["--speculative-config", json.dumps(self.draft.config)]
        return tuple(found)


def read_adapters(words: tuple[str, ...], served: str, said: str = "SERVE_LORA") -> tuple[Adapter, ...]:
    """Return the adapters that `name=folder` words name. Raises ConfigurationError for one that vLLM would refuse."""
    found: list[Adapter] = []
    for word in words:
        name, given, folder = word.partition("=")
        if not given or not name or not folder or not re.fullmatch(r"[^\s,{}\[\]]+", name):
            raise ConfigurationError(f"{said}={word!r} is not allowed: it must be name=folder, comma-separated.")
        if name == served or name in {adapter.name for adapter in found}:
            raise ConfigurationError(f"{said}={word!r} is not allowed: {name!r} is the name of something else already.")
        path = Path(folder).expanduser()
        try:
            config = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
            rank = max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])
            refused = _refused(config, rank)
        except FileNotFoundError as error:
            raise ConfigurationError(
                f"{said}={word!r} is not allowed: {path} holds no adapter_config.json (give the folder of an adapter, "
                "as PEFT saves it)."
            ) from error
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise ConfigurationError(
                f"{said}={word!r} is not allowed: the adapter_config.json in {path} cannot be read ({error})."
            ) from error
        if refused:
            raise ConfigurationError(f"{said}={word!r} is not allowed: vLLM does not serve {refused}.")
        found.append(Adapter(name, path.resolve(), rank))
    return tuple(found)


def _refused(config: Mapping[str, Any], rank: int) -> str | None:
    """Return what about an adapter vLLM refuses, None if it takes it."""
    init = config.get("init_lora_weights")
    kept = set(config.get("modules_to_save") or ()) - {"classifier", "score"}
    checks = (
        (str(config.get("peft_type", "LORA")).upper() != "LORA", f"adapters of the kind {config.get('peft_type')}"),
        (not 1 <= rank <= RANKS[-1], f"a rank of {rank}, only 1 to {RANKS[-1]}"),
        (bool(kept), f"adapters that bring whole modules along ({', '.join(sorted(map(str, kept)))})"),
        (config.get("use_dora"), "DoRA"),
        (config.get("use_qalora"), "QALoRA"),
        (config.get("use_bdlora"), "block-diagonal LoRA"),
        (config.get("layer_replication"), "adapters that repeat layers"),
        (config.get("alora_invocation_tokens"), "activated LoRA"),
        (config.get("lora_bias") or str(config.get("bias") or "none") != "none", "adapters with a bias"),
        (isinstance(init, str) and init.lower() not in INITS, f"adapters made with init_lora_weights={init!r}"),
    )
    return next((what for wrong, what in checks if wrong), None)


def find_draft(
    method: str,
    model: ModelFacts,
    hub: Callable[[], HubReader],
    cache: Path | None = None,
    said: str = "SERVE_SPECULATE",
) -> Draft:
    """Return how `model` guesses ahead by a method; the hub is asked for a draft that is not in the cache.

    Raises ConfigurationError for a method that vLLM does not have for the model, and what the hub raises.
    """
    family = model.family
    ways = family.speculation if family else ("ngram",)
    if method not in ways:
        who = family.name if family else model.name
        raise ConfigurationError(
            f"{said}={method!r} is not allowed with {who}: of vLLM's ways to guess ahead, {' and '.join(ways)} "
            f"{'are' if len(ways) > 1 else 'is'} known to go with it (SERVE_EXTRA_ARGS takes --speculative-config)."
        )
    if method == "ngram":
        return Draft("ngram")
    assert family is not None
    drafts = family.assistants if method == "mtp" else family.eagle3
    name = next((draft for size, draft in drafts.items() if size in model.name.lower()), None)
    if name is None:
        raise ConfigurationError(
            f"{said}={method!r} is not allowed with {model.name}: no draft is known for it, only for the "
            f"{family.name} of {', '.join(drafts)}."
        )
    folder = cached_folder(name, cache)
    if folder is not None and (size := weight_bytes(folder)):
        return Draft(method, name, size, _own_layers(method, _config(folder)))
    found = hub().read(name)
    if found.files.weight_bytes is None:
        raise ConfigurationError(
            f"{said}={method!r} cannot be planned: the size of its draft {name} is not known before it is downloaded "
            f"(`.venv-engine/bin/hf download {name}`)."
        )
    return Draft(method, name, found.files.weight_bytes, _own_layers(method, found.config))


def _config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _own_layers(method: str, config: Mapping[str, Any]) -> tuple[KvLayers, ...]:
    """Return the layers of a draft that have a KV cache of their own; an assistant (mtp) reads its model's."""
    if method == "mtp":
        return ()
    text = config.get("transformer_layer_config") or config
    try:
        heads = int(text["num_attention_heads"])
        head_dim = int(text.get("head_dim") or int(text["hidden_size"]) // heads)
        layers = KvLayers(
            "full", int(text.get("num_hidden_layers") or 1), int(text.get("num_key_value_heads") or heads), head_dim
        )
    except (LookupError, TypeError, ValueError, AttributeError):
        return ()
    return (layers,)
