"""What RunPod mounts at /runpod-volume: cached models, a network volume, and vLLM's compiled code kept on it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

logger = logging.getLogger(__name__)

# Below the mount, where RunPod puts a cached model; a network volume keeps there what vLLM downloads, too.
HUB = Path("huggingface-cache/hub")
COMPILED = Path("vllm-compiled")
# Where the Dockerfile puts weights that it bakes in.
BAKED_HUB = Path("/opt/huggingface/hub")


class Weights:
    """Find the Hugging Face cache to use: the image's, if it has the model; else the volume's, if there is one."""

    def __init__(self, volume: Path, baked: Path = BAKED_HUB) -> None:
        self._volume_hub = volume / HUB
        self._baked = baked
        # The worker is not root: a volume that it may not write to is good for reading only.
        self._writable = volume.is_dir() and os.access(volume, os.W_OK)

    def env(self, model: str) -> dict[str, str]:
        """Return the environment that makes Hugging Face's library, and so vLLM, use the right cache for `model`.

        With all of the model there, the hub is not asked at all: a start must not hang on somebody else's server.
        """
        for hub in (self._baked, self._volume_hub):
            if holds(hub, model):
                return {"HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1"}
        return {"HF_HUB_CACHE": str(self._volume_hub)} if self._writable else {}


def holds(hub: Path, model: str) -> bool:
    """Tell whether a Hugging Face cache holds all of `model` (`owner/name`)."""
    folder = hub / f"models--{model.replace('/', '--')}"
    try:
        snapshot = folder / "snapshots" / (folder / "refs" / "main").read_text().strip()
        index = snapshot / "model.safetensors.index.json"
        shards = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else {"model.safetensors"}
    except (OSError, ValueError, LookupError):
        return False
    # A snapshot's files are links, and a link whose blob is still on its way does not exist.
    return all((snapshot / name).exists() for name in ("config.json", *shards))


class CompiledCode:
    """Keep vLLM's compiled code on a volume, so that only the first worker compiles.

    vLLM works in a local folder. Before it starts, what the volume holds for the same engine and command is copied
    there; once it is ready, what it made is copied back: into a fresh folder that gets its name in one step, under a
    lock, so that no worker ever reads a half and no two write.
    """

    def __init__(self, volume: Path, identity: Sequence[str], local: Path | None = None) -> None:
        key = hashlib.sha256("\0".join(identity).encode()).hexdigest()[:16]
        self._there = volume.is_dir()
        self._kept = volume / COMPILED / key
        self._local = local or Path(tempfile.gettempdir()) / "vllm-cache"

    def restore(self) -> dict[str, str]:
        """Copy the compiled code in; return the environment that makes vLLM use it. Never fails."""
        if not self._there:
            return {}
        if self._kept.is_dir() and not self._local.exists():
            with _best_effort("reading"):
                shutil.copytree(self._kept, self._local)
                logger.info("Compiled code taken from %s", self._kept)
        return {"VLLM_CACHE_ROOT": str(self._local)}

    def save(self) -> None:
        """Copy the compiled code out, unless it is there or another worker is doing that. Never fails."""
        if not self._there or self._kept.exists() or not self._local.is_dir():
            return
        with _best_effort("writing"):
            self._kept.parent.mkdir(parents=True, exist_ok=True)
            with (self._kept.parent / ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fresh = Path(tempfile.mkdtemp(dir=self._kept.parent, prefix=".fresh-"))
                try:
                    shutil.copytree(self._local, fresh, dirs_exist_ok=True)
                    fresh.rename(self._kept)
                finally:
                    shutil.rmtree(fresh, ignore_errors=True)
            logger.info("Compiled code kept in %s", self._kept)


@contextlib.contextmanager
def _best_effort(what: str) -> Iterator[None]:
    try:
        yield
    except BlockingIOError:
        logger.info("Compiled code: another worker is %s it", what)
    except OSError as error:
        logger.warning("Compiled code: %s failed (%s); vLLM compiles by itself", what, error.strerror or error)
