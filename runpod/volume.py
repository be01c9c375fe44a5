"""What RunPod mounts at /runpod-volume: cached models, a network volume, and vLLM's compiled code kept on it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

logger = logging.getLogger(__name__)

# Where RunPod puts a cached model, and so where a network volume keeps what vLLM downloads, too.
HUB = Path("huggingface-cache/hub")
COMPILED = Path("vllm-compiled")


class Volume:
    """Use the volume at `root`, if there is one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.there = root.is_dir() and os.access(root, os.R_OK)

    def cache_env(self) -> dict[str, str]:
        """Return what points Hugging Face's libraries to the volume's cache; nothing without a volume."""
        return {"HF_HUB_CACHE": str(self.root / HUB)} if self.there else {}

    def has_model(self, name: str) -> bool:
        """Tell whether a snapshot of `name` lies in the cache whole, so that the hub need not be asked."""
        folder = self.root / HUB / f"models--{name.replace('/', '--')}"
        try:
            snapshot = folder / "snapshots" / (folder / "refs" / "main").read_text().strip()
        except OSError:
            return False
        weights = list(snapshot.glob("*.safetensors"))
        # A download under way leaves .incomplete blobs; a link whose blob is missing does not exist.
        return bool(weights) and all(file.exists() for file in weights) and not any(folder.glob("blobs/*.incomplete"))


class CompiledCode:
    """Keep vLLM's compiled code on a volume, so that only the first worker compiles.

    vLLM works in a local folder. Before it starts, what the volume holds for the same engine and command is copied
    there; once it is ready, what it made is copied back: into a fresh folder that gets its name in one step, under a
    lock, so that no worker ever reads a half and no two write.
    """

    def __init__(self, volume: Volume, identity: Sequence[str], local: Path | None = None) -> None:
        key = hashlib.sha256("\0".join(identity).encode()).hexdigest()[:16]
        self._volume = volume
        self._kept = volume.root / COMPILED / key
        self._local = local or Path(tempfile.gettempdir()) / "vllm-cache"

    def restore(self) -> dict[str, str]:
        """Copy the compiled code in; return the environment that makes vLLM use it. Never fails."""
        if not self._volume.there:
            return {}
        if self._kept.is_dir() and not self._local.exists():
            with _best_effort("reading"):
                shutil.copytree(self._kept, self._local)
                logger.info("Compiled code taken from %s", self._kept)
        return {"VLLM_CACHE_ROOT": str(self._local)}

    def save(self) -> None:
        """Copy the compiled code out, unless it is there or another worker is doing that. Never fails."""
        if not self._volume.there or self._kept.exists() or not self._local.is_dir():
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
