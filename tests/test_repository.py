"""What a stranger relies on when they clone the repository."""

import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support import settings_docs

ROOT = Path(__file__).parents[1]


def test_the_runpod_folder_does_not_shadow_the_sdk():
    assert not (ROOT / "runpod" / "__init__.py").exists()
    done = subprocess.run(
        [sys.executable, "-c", "import runpod.serverless; print(runpod.__file__)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(ROOT / "runpod") not in done.stdout


@pytest.mark.parametrize("path", sorted((ROOT / "runpod").glob("*.py")), ids=lambda path: path.name)
def test_no_file_in_runpod_bears_the_name_of_a_standard_module(path):
    assert path.stem not in sys.stdlib_module_names
    assert path.stem != "runpod"


def test_the_wheel_ships_the_client_alone():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["packages"] == ["client", "client._wire"]
    assert project["project"]["name"] == "gemma-vllm-kit"
    runtime = " ".join(project["project"]["dependencies"])
    assert "vllm" not in runtime
    assert "runpod" not in runtime


def test_env_example_is_in_step_with_the_settings():
    assert (ROOT / ".env.example").read_text() == settings_docs.env_example(), "run `make settings-docs`"


def test_the_readmes_tables_are_in_step_with_the_settings():
    text = (ROOT / "README.md").read_text()
    assert settings_docs.readme(text) == text, "run `make settings-docs`"


def test_env_example_sets_nothing_by_itself():
    lines = (ROOT / ".env.example").read_text().splitlines()
    assert all(not line or line.startswith("#") for line in lines)
    assert "#LLM_MODEL=" in lines
    assert "#SERVE_MODEL=" in lines


def test_every_make_target_has_its_line_of_help():
    makefile = (ROOT / "Makefile").read_text()
    phony = set(makefile.split(".PHONY:")[1].split()) - {"help"}
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert phony == {line.split()[0] for line in shown.splitlines()} - {"help"}


def test_no_file_names_a_registry_or_this_machine():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    texts = [(name, (ROOT / name).read_text(errors="replace")) for name in tracked if (ROOT / name).is_file()]
    assert not [name for name, text in texts if str(ROOT.parent) + "/" in text and name != "tests/test_repository.py"]


def test_importing_the_client_is_light():
    code = "import sys, client; print([m for m in ('openai', 'aiohttp', 'pydantic_settings') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_engine_is_no_import_of_the_kit():
    for path in [*(ROOT / "serving").glob("*.py"), *(ROOT / "client").glob("*.py"), *(ROOT / "runpod").glob("*.py")]:
        assert "import vllm" not in path.read_text(), path
    assert importlib.util.find_spec("vllm") is None
