"""The size of a checkpoint's weights, as its files say it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_SHARD = re.compile(r"-(?P<number>\d{5})(?:-of-(?P<of>\d{5}))?\.safetensors$")


def weight_bytes(folder: Path) -> int | None:
    """Return the bytes of the weights in a checkpoint's folder, None unless its files tell them for certain.

    The index says it, even where the weights themselves are not here yet. Without an index the files' sizes do, if none
    is missing: a download that was cut off says less than the truth.
    """
    indexed = _indexed(folder / "model.safetensors.index.json")
    if indexed is not None:
        return indexed
    files = list(folder.glob("model*.safetensors")) or list(folder.glob("*.safetensors"))
    shards = [match for file in files if (match := _SHARD.search(file.name))]
    if shards and any(len(shards) < int(shard["of"] or len(shards) + 1) for shard in shards):
        return None
    try:
        return sum(file.stat().st_size for file in files) or None
    except OSError:  # a link of the cache whose blob is still on its way
        return None


def _indexed(index: Path) -> int | None:
    try:
        total = json.loads(index.read_text(encoding="utf-8"))["metadata"]["total_size"]
        return int(total) or None
    except (OSError, ValueError, LookupError, TypeError):
        return None
