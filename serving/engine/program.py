"""Where the `vllm` program is, and which version of it the kit is made for."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from serving.errors import Refused

ROOT = Path(__file__).parents[2]
ENGINE = ROOT / ".venv-engine" / "bin" / "vllm"  # what `make setup-engine` makes
ENGINE_PYTHON = ENGINE.with_name("python")
PINS = Path(__file__).parents[1] / "vllm_side" / "environment"


def find_engine(engine: Path | None) -> Path:
    """Return the `vllm` program: `engine` if given, else that of `make setup-engine`, else the one on PATH."""
    if engine is not None:
        found = shutil.which(engine)
        if found is None:
            raise Refused(f"SERVE_ENGINE={str(engine)!r} is not a program that can be run: give the path of `vllm`.")
        return Path(found)
    found = str(ENGINE) if ENGINE.is_file() else shutil.which("vllm")
    if found is None:
        raise Refused("There is no vLLM here: run `make setup-engine`, or set SERVE_ENGINE to the path of `vllm`.")
    return Path(found)


def engine_python(engine: Path | None) -> Path | None:
    """Return the interpreter of the environment that the `vllm` program is in, None if it cannot be told."""
    try:
        program = find_engine(engine)
        with program.open("rb") as file:
            first = file.readline(4096).decode("utf-8", "replace").split()
    except (Refused, OSError):
        return None
    if first and first[0].startswith("#!/") and "/python" in first[0]:
        return Path(first[0].removeprefix("#!"))
    return next((path for name in ("python", "python3") if (path := program.with_name(name)).exists()), None)


def pinned_version(platform: Literal["cuda", "cpu"]) -> str:
    """Return the version of vLLM that `make setup-engine` installs, such as 0.32.0.

    A bump changes one line for each platform, in `vllm_side/environment/*.in`; all else follows by `make generated`.
    """
    return (PINS / f"{platform}.in").read_text(encoding="ascii").partition("==")[2].split()[0]
