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

from serving.model.hub_cache import CACHE_VARIABLES, holds, models_in, repository

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

logger = logging.getLogger(__name__)

# Below the mount, where RunPod puts a cached model; a network volume keeps there what vLLM downloads, too.
HUB = Path("huggingface-cache/hub")
COMPILED = Path("vllm-compiled")
# Where the Dockerfile puts weights that it bakes in.
BAKED_HUB = Path("/opt/huggingface/hub")


class Weights:
    """The Hugging Face cache to use: the image's or the volume's, whichever has all of a model; else where to put it.

    `volume` may be missing, be a cached model of RunPod's (good for reading), or a network volume, which this user may
    or may not write to.
    """

    def __init__(self, volume: Path, baked: Path = BAKED_HUB) -> None:
        self._volume = volume
        self._volume_hub = volume / HUB
        self._baked = baked

    def cache_of(self, model: str) -> Path | None:
        """Return the cache that holds all of `model`, None if neither does."""
        return next((hub for hub in (self._baked, self._volume_hub) if holds(hub, model)), None)

    def described_in(self, model: str) -> Path | None:
        """Return the cache that holds the configuration of `model`, whether or not its weights are there, too."""
        return next((hub for hub in (self._baked, self._volume_hub) if model in models_in(hub)), None)

    def env(self, model: str) -> dict[str, str]:
        """Return the environment that makes Hugging Face's library, and so vLLM, use the right cache for `model`.

        With all of the model there, the hub is not asked at all: a start must not hang on somebody else's server. A
        cache that was named in the environment is left to be the one that is downloaded to.
        """
        hub = self.cache_of(model)
        if hub is not None:
            return {"HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1"}
        if any(name in os.environ for name in CACHE_VARIABLES) or self._why_unwritable(model) is not None:
            return {}
        return {"HF_HUB_CACHE": str(self._volume_hub)}

    def about(self, model: str) -> Iterator[str]:
        """Yield what somebody who pays for a start should know about where the weights of `model` are."""
        hub = self.cache_of(model)
        if hub is not None:
            yield f"{model} is in {hub}: the hub is not asked"
            return
        others = [name for name in models_in(self._baked) if holds(self._baked, name)]
        if others:
            yield (
                f"WARNING: the image holds {', '.join(others)}, and the plan takes {model}, which is downloaded at "
                "each cold start: set SERVE_MODEL or SERVE_PRECISION to what is in the image, or bake this one."
            )
        why = self._why_unwritable(model)
        if self._volume.is_dir() and why is not None:
            yield (
                f"WARNING: the volume at {self._volume} cannot be written by user {os.geteuid()} ({why}): {model} is "
                "downloaded to the container's disk at each cold start, and no compiled code is kept. Open "
                f"{self._volume_hub} to all users from a pod (chmod -R a+rwX), or remove the volume."
            )

    def _why_unwritable(self, model: str) -> str | None:
        """Return why `model` cannot be downloaded to the volume, None if it can: tried, since modes do not tell."""
        if not self._volume.is_dir():
            return "there is none"
        folder = repository(model, self._volume_hub)
        locks = self._volume_hub / ".locks"
        try:
            self._volume_hub.mkdir(parents=True, exist_ok=True)
            for used in (self._volume_hub, folder, folder / "blobs", folder / "snapshots", locks, locks / folder.name):
                if used.is_dir():
                    with tempfile.TemporaryFile(dir=used):
                        pass
        except OSError as error:
            return error.strerror or str(error)
        return None


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
                try:
                    _copy_contents(self._kept, self._local)
                except OSError:
                    shutil.rmtree(self._local, ignore_errors=True)  # half of it is worse than none
                    raise
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
                    _copy_contents(self._local, fresh)
                    fresh.rename(self._kept)
                finally:
                    shutil.rmtree(fresh, ignore_errors=True)
            logger.info("Compiled code kept in %s", self._kept)


def _copy_contents(source: Path, target: Path) -> None:
    """Copy a folder's files, without their modes and times: a network volume may refuse those, even to root."""
    for folder, _, names in os.walk(source):
        into = target / Path(folder).relative_to(source)
        into.mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copyfile(Path(folder) / name, into / name)


@contextlib.contextmanager
def _best_effort(what: str) -> Iterator[None]:
    try:
        yield
    except BlockingIOError:
        logger.info("Compiled code: another worker is %s it", what)
    except OSError as error:
        logger.warning("Compiled code: %s failed (%s); vLLM compiles by itself", what, error.strerror or error)
