"""Hugging Face's side of this machine: its cache, read by the documented layout without its library, and its token.

The environment variables are those of Hugging Face's own library, which vLLM reads in the same way.
"""

from __future__ import annotations

import os
import re
from pathlib import Path


def cache_folder() -> Path:
    """Return where Hugging Face's library, and so vLLM, keeps models: by its own environment variables."""
    for variable, below in (("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub")):
        if value := os.environ.get(variable):
            return Path(value).expanduser() / below
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path("~/.cache").expanduser()) / "huggingface" / "hub"


def endpoint() -> str:
    """Return the hub's address, without a slash at its end."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def offline() -> bool:
    """Whether Hugging Face's own variables forbid the network."""
    said = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return said.upper() in ("1", "ON", "YES", "TRUE")


def stored_token() -> str | None:
    """Return the token that `hf auth login` has left on this machine, None if there is none."""
    path = os.environ.get("HF_TOKEN_PATH")
    try:
        return (Path(path) if path else cache_folder().parent / "token").read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def cached_folder(name: str, cache: Path | None = None) -> Path | None:
    """Return the folder of the model `owner/name` in the cache, None if it is not there."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return None
    repository = (cache or cache_folder()) / f"models--{name.replace('/', '--')}"
    try:
        commit = (repository / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        commit = "*"  # fetched by its commit: any that is there will do
    found = sorted(repository.glob(f"snapshots/{commit}/config.json"))
    return found[-1].parent if found else None


def cached_bytes(name: str, cache: Path | None = None) -> int:
    """Return how many bytes of the model's weights the cache holds already."""
    folder = cached_folder(name, cache)
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder else 0
