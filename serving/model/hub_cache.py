"""Hugging Face's side of this machine: its cache, read by the documented layout without its library, and its token.

The variables are those that Hugging Face's own library reads, and so vLLM (huggingface_hub 2.4, its `constants.py` and
`utils/_auth.py`). Those of the environment win over those of the env file. An empty one is an unset one, as everywhere
in the kit; the library takes it as it stands, so that `environment` says then what is meant.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

HUB = "https://huggingface.co"
# What says where models are kept. The library itself reads them in this order.
CACHE_VARIABLES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME")
_PLACES = (*CACHE_VARIABLES, "XDG_CACHE_HOME", "HF_TOKEN_PATH", "HF_ENDPOINT")
_YES = ("1", "ON", "YES", "TRUE")


@dataclass(frozen=True)
class Hub:
    """Where Hugging Face's library keeps models and the token, whom it asks, and whether it may ask at all."""

    home: Path
    cache: Path
    endpoint: str
    token_path: Path
    offline: bool
    stored_token: str | None = field(repr=False)


def find_hub(file: Mapping[str, str] | None = None) -> Hub:
    """Return what the environment says of the hub, and what the env file says where the environment does not."""
    said = {**(file or {}), **{name: value for name, value in os.environ.items() if value}}
    caches = Path(_expanded(said.get("XDG_CACHE_HOME", "~/.cache")))
    home = Path(_expanded(said["HF_HOME"])) if "HF_HOME" in said else caches / "huggingface"
    cache = next((Path(_expanded(said[name])) for name in CACHE_VARIABLES[:2] if name in said), home / "hub")
    token_path = Path(_expanded(said["HF_TOKEN_PATH"])) if "HF_TOKEN_PATH" in said else home / "token"
    offline = said.get("HF_HUB_OFFLINE") or said.get("TRANSFORMERS_OFFLINE") or ""
    return Hub(
        home=home,
        cache=cache,
        endpoint=said.get("HF_ENDPOINT", HUB).rstrip("/"),
        token_path=token_path,
        offline=offline.upper() in _YES,
        stored_token=_token_in(token_path),
    )


def environment(file: Mapping[str, str]) -> dict[str, str]:
    """Return what must be added to the environment for a program that uses the library to find what we find."""
    if not any(os.environ.get(name) == "" for name in _PLACES):
        return dict(file)
    hub = find_hub(file)
    places = {"HF_HOME": hub.home, "HF_HUB_CACHE": hub.cache, "HF_TOKEN_PATH": hub.token_path}
    return {**file, **{name: str(path) for name, path in places.items()}, "HF_ENDPOINT": hub.endpoint}


def cache_folder() -> Path:
    """Return where models are kept, as the environment alone says it."""
    return find_hub().cache


def repository(name: str, cache: Path) -> Path:
    """Return the folder of the model `owner/name` in a cache, whether or not it is there."""
    return cache / f"models--{name.replace('/', '--')}"


def models_in(cache: Path) -> list[str]:
    """Return the names of the models in a cache, whole or not."""
    try:
        names = sorted(item.name for item in cache.iterdir())
    except OSError:
        return []
    return [name.removeprefix("models--").replace("--", "/", 1) for name in names if name.startswith("models--")]


def cached_folder(name: str, cache: Path | None = None) -> Path | None:
    """Return the folder of the model `owner/name` in the cache, None if it is not there."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return None
    cache = cache or cache_folder()
    folder = repository(name, cache)
    # Fetched by its commit, it has no `main`: any that is there will do.
    found = sorted(folder.glob(f"snapshots/{main_commit(name, cache) or '*'}/config.json"))
    return found[-1].parent if found else None


def cached_bytes(name: str, cache: Path | None = None) -> int:
    """Return how many bytes of the model's weights the cache holds already."""
    folder = cached_folder(name, cache)
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder else 0


def arrived_bytes(name: str, cache: Path) -> int:
    """Return how many bytes of the model have arrived in the cache, those of unfinished files included."""
    total = 0
    try:
        for blob in (repository(name, cache) / "blobs").iterdir():
            total += blob.stat().st_size
    except OSError:  # none yet, or a file that is renamed while we look
        pass
    return total


def holds(cache: Path, name: str) -> bool:
    """Whether a cache holds all of the model `owner/name`."""
    folder = repository(name, cache)
    commit = main_commit(name, cache)
    if commit is None:
        return False
    snapshot = folder / "snapshots" / commit
    index = snapshot / "model.safetensors.index.json"
    try:
        shards = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else {"model.safetensors"}
    except (OSError, ValueError, LookupError):
        return False
    # A snapshot's files are links, and a link whose blob is still on its way does not exist.
    return all((snapshot / name).exists() for name in ("config.json", *shards))


def main_commit(name: str, cache: Path) -> str | None:
    """Return the commit that a cache has as the model's `main`, None if it has none."""
    try:
        return (repository(name, cache) / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _token_in(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").replace("\r", "").replace("\n", "").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _expanded(path: str) -> str:
    return os.path.expandvars(os.path.expanduser(path))  # noqa: PTH111 (in the library's order)
