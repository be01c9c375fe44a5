"""Scripts that the engine's own Python runs, and how a test runs one."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.support.serving import ROOT

ENGINE_PYTHON = ROOT / ".venv-engine" / "bin" / "python"
MIDDLEWARE = ROOT / "serving" / "vllm_side" / "middleware"


def run_inside(script: str, *arguments: str | Path, env: dict[str, str] | None = None) -> Any:
    """Run `script` of this folder inside vLLM's environment; return what its last line says, as JSON."""
    command = [ENGINE_PYTHON, "-W", "ignore", Path(__file__).with_name(script), *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])
