"""Commits of checkpoints on Hugging Face that are known to be what the tables say, so that no weights change unseen.

Each is what many public logs and scripts of the last year name as downloaded (`snapshots/COMMIT`). Checkpoints that no
such record was found for are taken from `main`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from serving.model.hub_cache import holds, main_commit

if TYPE_CHECKING:
    from pathlib import Path

REVISIONS = {
    "google/gemma-3-27b-it": "005ad3404e59d6023443cb575daa05336842228a",
    "google/gemma-3-12b-it": "96b6f1eccf38110c56df3a15bffe176da04bfd80",
    "google/gemma-3-4b-it": "093f9f388b31de276ce2de164bdc2081324b9767",
    "google/gemma-3-1b-it": "dcc83ea841ab6100d6b47a070329e1ba4cf78752",
    "RedHatAI/gemma-3-27b-it-quantized.w4a16": "2b537554d6c6f6368945e8df4e5fb7bbbb5d56c9",
}


def revision_of(checkpoint: str, cache: Path | None = None) -> str | None:
    """Return the commit to serve of `checkpoint`, None for what its branch `main` is.

    A `cache` that holds all of another `main` has been filled on purpose, or by an image: that is what is served then.
    """
    known = REVISIONS.get(checkpoint)
    if known is None or cache is None:
        return known
    return None if holds(cache, checkpoint) and main_commit(checkpoint, cache) not in (None, known) else known
