"""Write the settings' documentation from the settings: `.env.example` and the README's tables.

`python -m tests.support.settings_docs` writes both; a test says when that is due.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import AliasChoices, SecretStr

from client.settings import ClientSettings
from serving.settings import ServeSettings

if TYPE_CHECKING:
    from types import ModuleType

    from pydantic_settings import BaseSettings

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- settings: begin, written by `make settings-docs` -->", "<!-- settings: end -->"


def _by_path(path: str) -> ModuleType:
    folder = str(ROOT / "runpod")
    if folder not in sys.path:
        sys.path.append(folder)
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def classes() -> dict[str, type[BaseSettings]]:
    """Return the settings classes under the headings that they get."""
    return {
        "The client: `LLM_*`": ClientSettings,
        "The server: `SERVE_*`": ServeSettings,
        "RunPod, the worker: `WORKER_*`": _by_path("runpod/worker/settings.py").WorkerSettings,
        "RunPod, deploying: `DEPLOY_*`": _by_path("runpod/deployment/settings.py").DeploySettings,
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


def env_example() -> str:
    """Return the text of `.env.example`."""
    lines = [
        "# Copy to .env and change what you need; every line is a default or an example, and all are optional.",
        "# The environment wins over this file. One file drives the server, the client, the worker and the deploy.",
    ]
    for heading, settings in classes().items():
        lines += ["", f"# ---- {heading.replace('`', '')}"]
        for row in rows(settings):
            lines += [f"# {row.about.replace('`', '')}", f"#{row.name}={row.default}"]
    return "\n".join(lines) + "\n"


def readme_tables() -> str:
    """Return the README's tables."""
    lines = [BEGIN]
    for heading, settings in classes().items():
        lines += ["", f"### {heading}", "", "| variable | default | |", "|---|---|---|"]
        for row in rows(settings):
            default = f"`{row.default}`" if row.default else ""
            lines.append(f"| `{row.name}` | {default} | {row.about.replace('|', chr(92) + '|')} |")
    return "\n".join([*lines, "", END])


def readme(text: str) -> str:
    """Return the README's `text` with its tables written anew."""
    begin, end = text.index(BEGIN), text.index(END) + len(END)
    return text[:begin] + readme_tables() + text[end:]


if __name__ == "__main__":
    (ROOT / ".env.example").write_text(env_example())
    page = ROOT / "README.md"
    page.write_text(readme(page.read_text()))
