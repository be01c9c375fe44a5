"""vLLM's own answer to how large a model is and what it keeps of a request: asked once, kept in the cache.

The answer hangs on the configuration and on vLLM's version alone, so that is what it is kept by. What the description
holds stands in `vllm_side/describe/describe_model.py`, which makes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from serving.model.python_environment import installed

SCRIPT = Path(__file__).parents[1] / "vllm_side" / "describe" / "describe_model.py"
TIMEOUT_S = 600.0
_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSWORD")

Description = dict[str, Any]
# What is asked: a config.json and the model's name in, its description out.
Ask = Callable[[Mapping[str, Any], str], Description]


class AskVllm:
    """How to ask vLLM: `python` is its environment's interpreter, `cache_dir` where answers are kept.

    `say` gets a line when asking begins and at each step, since it takes half a minute.
    """

    def __init__(self, python: Path | None, cache_dir: Path, say: Callable[[str], None] = lambda line: None) -> None:
        self._python = python
        self._cache = cache_dir / "described"
        self._say = say

    def __call__(self, config: Mapping[str, Any], name: str) -> Description:
        """Return the description of the model with this config.json; one that holds only `error` if vLLM has none."""
        version = " ".join(installed(self._python, "vllm"))
        if self._python is None or not version:
            return {"error": "there is no vLLM here to ask"}
        kept = self._cache / f"{_key(config, version)}.json"
        known = _read(kept)
        if known is not None:
            return known
        found = self._ask(self._python, config, name)
        if "error" not in found or found.pop("lasting", False):
            _write(kept, found)
        return found

    def _ask(self, python: Path, config: Mapping[str, Any], name: str) -> Description:
        self._say(f"asking vLLM what {name} takes (once, about half a minute)")
        with tempfile.TemporaryDirectory(prefix="describe-") as folder:
            (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
            try:
                process = subprocess.Popen(
                    [str(python), "-W", "ignore", str(SCRIPT), folder],
                    env={key: value for key, value in os.environ.items() if not _SECRET.search(key)},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except OSError as error:
                return {"error": f"vLLM could not be asked ({error.strerror})"}
            timer = threading.Timer(TIMEOUT_S, _end, [process])
            timer.start()
            try:
                found = self._listen(process)
                status = process.wait()
            finally:
                late = not timer.is_alive()
                timer.cancel()
                _end(process)
        if found is not None:
            return found
        if late:
            return {"error": f"vLLM did not answer in {TIMEOUT_S:.0f} s"}
        return {"error": f"vLLM ended with status {status} before it had an answer"}

    def _listen(self, process: subprocess.Popen[bytes]) -> Description | None:
        """Say the steps as they come; return the answer, None if there is none."""
        assert process.stdout is not None
        found = None
        with process.stdout as lines:
            for line in lines:
                try:
                    said = _printable(json.loads(line))
                except ValueError:
                    continue
                if not isinstance(said, dict):
                    continue
                if "phase" in said:
                    self._say(f"  {said['phase']}")
                elif "weights" in said:
                    found = said
                elif "error" in said:
                    found = {"error": str(said["error"]), "lasting": True}
        return found


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process, if it still runs, with all that it started."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _key(config: Mapping[str, Any], version: str) -> str:
    scripts = (path.read_text(encoding="utf-8") for path in sorted(SCRIPT.parent.glob("*.py")))
    text = "".join((json.dumps(config, sort_keys=True), version, *scripts))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _printable(value: Any) -> Any:
    """Return a JSON value without characters that a terminal would obey."""
    if isinstance(value, str):
        return "".join(letter for letter in value if letter.isprintable())
    if isinstance(value, list):
        return [_printable(item) for item in value]
    if isinstance(value, dict):
        return {str(_printable(key)): _printable(item) for key, item in value.items()}
    return value


def _read(path: Path) -> Description | None:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return known if isinstance(known, dict) and ("weights" in known or "error" in known) else None


def _write(path: Path, found: Description) -> None:
    """Keep an answer, whole or not at all; a cache that cannot be written only costs the time to ask again."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(json.dumps(found), encoding="utf-8")
        scratch.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            scratch.unlink()
