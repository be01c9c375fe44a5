"""From a model's name to its facts.

From the tables of the families that are shipped here (so planning works offline, and before a licence is accepted),
from a folder with a checkpoint, from the Hugging Face cache, or from the hub. No weights are downloaded.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from serving.errors import ConfigurationError
from serving.model.config_json import from_config, from_folder
from serving.model.hub_cache import cached_folder
from serving.model.shipped import shipped
from serving.model.weight_files import weight_bytes

if TYPE_CHECKING:
    from serving.model.ask_vllm import Ask
    from serving.model.facts import Checkpoint, ModelFacts
    from serving.model.hub import HubReader


def resolve(
    name: str,
    hub_cache: Path | None = None,
    said: str = "SERVE_MODEL",
    *,
    ask: Ask | None = None,
    hub: HubReader | None = None,
) -> ModelFacts:
    """Return the facts of a model: a folder, one of the shipped tables, one in the Hugging Face cache, or on the hub.

    `google/gemma-3-27b-it` means the member of the family: all its checkpoints may be planned. Any other name means
    that checkpoint alone. Where a checkpoint is cached, its files say how large it is, not the table. What is not in
    the tables is asked of vLLM where `ask` is given; the hub is read where `hub` is. Raises ConfigurationError or
    Refused with the sentence that says what would help; `said` is what the user calls the name.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return from_folder(folder, str(folder), said, ask)
    facts = shipped(name)
    if facts is not None:
        return replace(facts, checkpoints=tuple(_as_it_is(item, hub_cache) for item in facts.checkpoints))
    if name.startswith((".", "/", "~")):
        raise ConfigurationError(f"{said}={name!r} is not allowed: there is no such folder.")
    cached = cached_folder(name, hub_cache)
    if cached is not None:
        return from_folder(cached, name, said, ask)
    if hub is None:
        raise ConfigurationError(
            f"{said}={name!r} is not known here: it must be a folder with a config.json, a Gemma 3 or 4 like "
            "google/gemma-3-27b-it, or a model in the Hugging Face cache (put its configuration there with "
            f"`.venv-engine/bin/hf download {name} config.json`)."
        )
    found = hub.read(name)
    return from_config(found.config, name, found.files, said=said, ask=ask, gated=found.gated)


def _as_it_is(checkpoint: Checkpoint, hub_cache: Path | None) -> Checkpoint:
    folder = cached_folder(checkpoint.name, hub_cache)
    size = weight_bytes(folder) if folder else None
    return checkpoint if size is None else replace(checkpoint, weight_bytes=size)
