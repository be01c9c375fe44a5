"""What a stranger relies on when they clone the repository."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from tests.support import generated

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


def modules(*folders):
    """Return the Python files of the repository below these folders, without what nobody committed."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *folders],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return [ROOT / name for name in listed if name.endswith(".py") and (ROOT / name).is_file()]


def test_no_script_in_runpod_hides_a_package_or_a_module_of_the_standard_library_or_of_the_sdk():
    import runpod

    [sdk] = {Path(folder) for folder in runpod.__path__ if Path(folder) != ROOT / "runpod"}
    taken = {path.stem for path in sdk.iterdir()} - {"__init__", "__pycache__"}
    scripts = {path.stem for path in modules("runpod") if path.parent == ROOT / "runpod"}
    packages = {path.parent.name for path in modules("runpod") if path.name == "__init__.py"}
    for name in scripts | packages:
        assert name not in sys.stdlib_module_names
        assert name != "runpod"
    assert not packages & taken
    assert not packages & scripts


@pytest.mark.parametrize("folder", ["client", "serving", "runpod"])
def test_a_folder_is_read_at_a_glance_and_a_file_fits_in_the_head(folder):
    paths = modules(folder)
    counts = Counter(path.parent for path in paths)
    assert {str(where.relative_to(ROOT)): count for where, count in counts.items() if count > 18} == {}
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in paths}
    assert {name: length for name, length in lengths.items() if length > 350} == {}


@pytest.mark.parametrize(
    ("planted", "broken"),
    [
        ("client/_wire/chunk.py", "import serving.errors"),
        ("serving/model/facts.py", "import serving.planning.plan"),
        ("serving/errors.py", "def late() -> None:\n    import serving.launch\n"),
        ("runpod/worker/job_error.py", "import deployment.errors"),
        ("serving/engine/download.py", "import vllm"),
    ],
)
def test_an_upward_import_fails_the_lint(tmp_path, planted, broken):
    for folder in ("client", "serving", "runpod"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / planted).open("a") as file:
        file.write(f"\n{broken}\n")
    lint = Path(sys.executable).with_name("lint-imports")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{tmp_path / 'runpod'}"}
    done = subprocess.run(
        [lint, "--no-logo", "--no-cache"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout


def test_the_wheel_ships_the_client_alone():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["packages"] == ["client", "client._wire"]
    assert project["project"]["name"] == "gemma-vllm-kit"
    runtime = " ".join(project["project"]["dependencies"])
    assert "vllm" not in runtime
    assert "runpod" not in runtime


def test_what_is_generated_is_in_step_with_the_code():
    assert generated.due() == [], "run `make generated`"


def test_a_bump_of_vllm_is_one_line_a_platform(monkeypatch):
    monkeypatch.setattr(generated, "pinned_version", lambda platform: {"cuda": "0.99.1", "cpu": "0.98.7"}[platform])
    due = {"runpod/Dockerfile", "pyproject.toml", "serving/vllm_side/environment/vllm_metadata/pyproject.toml"}
    assert due <= set(generated.due())
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    inputs = {platform: ROOT / "serving/vllm_side/environment" / f"{platform}.in" for platform in ("cuda", "cpu")}
    follow = {*due, *(f"serving/vllm_side/environment/{platform}.txt" for platform in inputs)}
    for input_file in inputs.values():
        version = input_file.read_text().partition("==")[2].split()[0]
        pinned = {
            ROOT / name
            for name in tracked
            if name.startswith(("serving/", "runpod/", "client/", "Makefile", "pyproject.toml"))
            and not name.endswith(".md")
            and name not in follow
            and re.search(rf"(?:==|=|v|\")v?{re.escape(version)}\b", (ROOT / name).read_text(errors="replace"))
        }
        assert pinned == {input_file}


@pytest.mark.parametrize(
    ("name", "unhashed"),
    [
        ("constraints.txt", set()),
        ("serving/vllm_side/environment/cuda.txt", set()),
        # No file of PyPI's: PyTorch's index and a wheelhouse need not hold the same one.
        ("serving/vllm_side/environment/cpu.txt", {"torch"}),
    ],
)
def test_what_is_installed_is_pinned_with_its_hash_and_no_index(name, unhashed):
    text = (ROOT / name).read_text()
    pins = re.findall(r"^(\S+)==(\S.*?(?:\\\n.*?)*)$", text, re.MULTILINE)
    assert len(pins) > 100
    assert {package for package, rest in pins if "--hash=sha256:" not in rest} == unhashed
    assert "://" not in text
    assert "--index" not in text


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
