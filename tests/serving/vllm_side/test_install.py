"""The script that makes the engine's environment: the script itself, around an installer that says what uv says."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.serving import ROOT

ENVIRONMENT = Path("serving/vllm_side/environment")
UV = f"""#!{sys.executable}
import os, pathlib, sys
venv = pathlib.Path(".venv-engine")
if sys.argv[1] == "venv":
    modules = venv / "lib" / "site-packages" / "vllm"
    modules.mkdir(parents=True, exist_ok=True)
    (venv / "bin").mkdir(exist_ok=True)
    (venv / "pyvenv.cfg").touch()
    (venv / "bin" / "python").unlink(missing_ok=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    (modules / "engine.py").write_text("def run(): pass")
    (modules / "template.py").write_text("print 'no Python 3'")
    sys.exit()
print("Resolved 157 packages in 1.2s", file=sys.stderr)
for number in range(40):
    print(f"Downloading package{{number}} (200.0MiB)", file=sys.stderr)
if os.environ.get("UV_FAILS"):
    print("error: No space left on device (os error 28)", file=sys.stderr)
    sys.exit(2)
print("Prepared 157 packages in 60s\\nInstalled 157 packages in 4s", file=sys.stderr)
for number in range(157):
    print(f" + package{{number}}==1.0", file=sys.stderr)
"""


@pytest.fixture
def checkout(tmp_path):
    shutil.copytree(ROOT / ENVIRONMENT, tmp_path / ENVIRONMENT)
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "python").symlink_to(sys.executable)
    (programs / "uv").write_text(UV)
    (programs / "uv").chmod(0o755)
    return tmp_path


def install(checkout, **variables):
    env = {name: value for name, value in os.environ.items() if name not in ("ENGINE", "PYTHONPYCACHEPREFIX")}
    command = ["bash", str(checkout / ENVIRONMENT / "install.sh")]
    env |= {"SYSTEM": str(checkout / "system"), **variables}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def byte_code(checkout):
    return [path.name.partition(".")[0] for path in (checkout / ".venv-engine" / "lib").rglob("*.pyc")]


def test_the_byte_code_is_made_once_even_where_imports_write_none(checkout):
    first = install(
        checkout, ENGINE="cpu", PYTHONDONTWRITEBYTECODE="1", PYTHONPYCACHEPREFIX=str(checkout / "elsewhere")
    )
    assert (first.returncode, byte_code(checkout)) == (0, ["engine"])
    second = install(checkout, ENGINE="cpu")
    assert (second.returncode, second.stdout + second.stderr) == (0, "")


def test_an_environment_without_byte_code_is_not_installed_again(checkout):
    install(checkout, ENGINE="cpu")
    (checkout / ".venv-engine" / ".compiled").unlink()
    again = install(checkout, ENGINE="cpu")
    assert "Compiling" in again.stdout
    assert "Installing" not in again.stdout


def test_the_install_says_where_it_is_and_not_each_package(checkout):
    done = install(checkout, ENGINE="cpu")
    said = (done.stdout + done.stderr).splitlines()
    assert len(said) < 12, said
    assert not [line for line in said if " + package" in line]
    assert [line for line in said if "Resolved 157 packages" in line]
    assert said[-1].strip() == "compiled 2 of 2 files"


def test_a_failed_install_says_why_and_is_tried_again(checkout):
    failed = install(checkout, ENGINE="cpu", UV_FAILS="1")
    assert failed.returncode == 2
    assert "error: No space left on device" in failed.stderr
    again = install(checkout, ENGINE="cpu")
    assert (again.returncode, "Installing" in again.stdout) == (0, True)


@pytest.mark.parametrize(
    ("there", "engine"),
    [
        ((), "cpu"),
        (("proc/driver/nvidia/version",), "cuda"),
        (("dev/nvidiactl",), "cuda"),
        (("dev/dxg",), "cpu"),  # WSL2 on a machine without NVIDIA
        (("dev/dxg", "usr/lib/wsl/lib/libcuda.so.1"), "cuda"),
    ],
)
def test_cuda_is_for_nvidia_gpus(checkout, there, engine):
    for name in there:
        (checkout / "system" / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / "system" / name).touch()
    assert f"Installing vLLM for {engine} " in install(checkout).stdout
