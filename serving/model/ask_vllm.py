"""vLLM's own answer to how large a model is and what it keeps of a request: asked once, kept in the cache.

The answer hangs on the configuration and on vLLM's version alone, so that is what it is kept by. What the description
holds stands in `vllm_side/describe_model.py`, which makes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[1] / "vllm_side" / "describe_model.py"
TIMEOUT_S = 600.0

Description = dict[str, Any]
# What is asked: a config.json and the model's name in, its description out.
Ask = Callable[[Mapping[str, Any], str], Description]


class AskVllm:
    """How to ask vLLM: `python` is its environment's interpreter, `cache_dir` where answers are kept.

    `say` gets a line when asking begins, since it takes half a minute.
    """

    def __init__(self, python: Path, cache_dir: Path, say: Callable[[str], None] = lambda line: None) -> None:
        self._python = python
        self._cache = cache_dir / "described"
        self._say = say

    def __call__(self, config: Mapping[str, Any], name: str) -> Description:
        """Return the description of the model with this config.json; one that holds only `error` if vLLM has none."""
        if not self._python.is_file():
            return {"error": "there is no vLLM here to ask"}
        kept = self._cache / f"{self._key(config)}.json"
        try:
            known = json.loads(kept.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = None
        if isinstance(known, dict):
            return known
        found = self._ask(config, name)
        if "error" not in found or found.pop("lasting", False):
            _write(kept, found)
        return found

    def _key(self, config: Mapping[str, Any]) -> str:
        text = json.dumps(config, sort_keys=True) + self._version() + SCRIPT.read_text(encoding="utf-8")
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _version(self) -> str:
        """Return which vLLM that is, from its environment's metadata: asking it takes half a minute."""
        root = self._python.parent.parent  # not resolved: an environment's interpreter is a link
        found = sorted(path.name for path in root.glob("lib/python*/site-packages/vllm*-*.dist-info"))
        return " ".join(found)

    def _ask(self, config: Mapping[str, Any], name: str) -> Description:
        self._say(f"asking vLLM what {name} takes (once, about half a minute)")
        with tempfile.TemporaryDirectory(prefix="describe-") as folder:
            (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
            try:
                done = subprocess.run(
                    [str(self._python), "-W", "ignore", str(SCRIPT), folder],
                    env={key: value for key, value in os.environ.items() if key not in ("HF_TOKEN", "VLLM_API_KEY")},
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    timeout=TIMEOUT_S,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                return {"error": f"vLLM did not answer in {TIMEOUT_S:.0f} s"}
            except OSError as error:
                return {"error": f"vLLM could not be asked ({error.strerror})"}
        last = done.stdout.decode("utf-8", "replace").strip().rpartition("\n")[2]
        try:
            found = json.loads(last)
        except ValueError:
            found = {}
        if isinstance(found, dict) and "weights" in found:
            return found
        if isinstance(found, dict) and "error" in found:
            return {"error": str(found["error"]), "lasting": True}
        return {"error": f"vLLM ended with status {done.returncode} before it had an answer"}


def _write(path: Path, found: Description) -> None:
    """Keep an answer, whole or not at all; a cache that cannot be written only costs the time to ask again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
            json.dump(found, file)
        Path(file.name).replace(path)
    except OSError:
        return
