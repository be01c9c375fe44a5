"""The worker's image, built for real: buildah with stand-ins for the two base images, and what it made, started.

The stand-in for `vllm/vllm-openai` is a small Debian with a `vllm`, an `hf` and a `uv` of its own; the latter two do what
the tests look for. This machine's certificates go into the stand-in alone, as the kit's image must not need them.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
TOOLS = ("buildah", "crun", "mmdebstrap")
# Debian's files of the base, kept between runs: they take a minute.
KEPT = Path("~/.cache/gemma-vllm-kit/image-test/base.tar").expanduser()
PACKAGES = "python3,ca-certificates,curl"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
TOKEN = "hf_a_token_for_the_build_alone"

VLLM = """#!/opt/kit/.venv/bin/python
import sys
sys.path.insert(0, "/opt/stand-in")
from fake_vllm import main
main()
"""
# As `hf download NAME --exclude ...`: lays the model into HF_HUB_CACHE the way the library does, if the token is right.
HF = f"""#!/usr/bin/python3
import json, os, pathlib, sys
if os.environ.get("HF_TOKEN") != {TOKEN!r}:
    sys.exit("hf: 401 Unauthorized: this model is gated")
assert sys.argv[1] == "download"
folder = pathlib.Path(os.environ["HF_HUB_CACHE"]) / ("models--" + sys.argv[2].replace("/", "--"))
snapshot = folder / "snapshots" / "abc"
snapshot.mkdir(parents=True)
(folder / "refs").mkdir()
(folder / "refs" / "main").write_text("abc")
(snapshot / "config.json").write_text("{{}}")
(snapshot / "model-00001-of-00001.safetensors").write_text("weights")
index = {{"metadata": {{"total_size": 54860000000}}, "weight_map": {{"layer": "model-00001-of-00001.safetensors"}}}}
(snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
"""
OTHER_UV = "#!/bin/sh\necho 'the uv of the base image ran, not the pinned one' >&2\nexit 1\n"


def missing_tools() -> list[str]:
    """Return what is not installed of what a build needs."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]


class Builder:
    """buildah with a store of its own in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._store = ["--root", str(folder / "store"), "--runroot", str(folder / "run"), "--storage-driver", "vfs"]

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of one call."""
        return ["buildah", *self._store, *arguments]

    def __call__(self, *arguments: str, env: dict[str, str] | None = None) -> str:
        """Run one call; return what it printed. Fails the test with all of its output."""
        done = subprocess.run(
            self.command(*arguments),
            env=os.environ | (env or {}),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"buildah {' '.join(arguments)}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def make_bases(self, versions: dict[str, str]) -> None:
        """Make the stand-ins, under the names that the Dockerfile knows: `versions` are its build arguments."""
        if not KEPT.is_file():
            KEPT.parent.mkdir(parents=True, exist_ok=True)
            draft = KEPT.with_name(f"{os.getpid()}.tar")
            suite = platform.freedesktop_os_release()["VERSION_CODENAME"]  # whose keys are here
            subprocess.run(["mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", suite, draft], check=True)
            draft.rename(KEPT)
        container = self("from", "scratch")
        self("add", container, str(KEPT), "/")
        root = Path(self("mount", container))
        for name, text in (("vllm", VLLM), ("hf", HF), ("uv", OTHER_UV)):
            program = root / "usr" / "local" / "bin" / name
            program.write_text(text)
            program.chmod(0o755)
        (root / "opt" / "stand-in").mkdir(parents=True)
        shutil.copy(ROOT / "tests" / "support" / "fake_vllm.py", root / "opt" / "stand-in")
        packages = next((root / "usr" / "lib" / "python3").glob("dist-packages"))
        for name in ("vllm", "torch", "transformers"):
            (packages / name).mkdir()
            (packages / name / "__init__.py").write_text("raise ImportError('the build must not import this')\n")
        settings = {}
        if CERTIFICATES.is_file():
            shutil.copy(CERTIFICATES, root / str(CERTIFICATES).lstrip("/"))
            settings["SSL_CERT_FILE"] = str(CERTIFICATES)
        for theirs, ours in (("UV_INDEX_URL", "PIP_INDEX_URL"), ("UV_EXTRA_INDEX_URL", "PIP_EXTRA_INDEX_URL")):
            if value := os.environ.get(theirs) or os.environ.get(ours):
                settings[theirs] = value
        self("config", *(word for item in settings.items() for word in ("--env", "=".join(item))), container)
        self("commit", "--rm", container, f"docker.io/vllm/vllm-openai:v{versions['VLLM_VERSION']}")
        container = self("from", "scratch")
        self("copy", container, str(ROOT / ".venv" / "bin" / "uv"), "/uv")
        self("commit", "--rm", container, f"docker.io/astral/uv:{versions['UV_VERSION']}")

    def build(self, dockerfile: str, tag: str, *arguments: str, context: Path = ROOT) -> None:
        """Build `dockerfile`, a path in `context`, as `make image` and RunPod's Hub do."""
        ignore = context / f"{dockerfile}.dockerignore"  # BuildKit finds it by itself
        self(
            "build", "--format", "docker",  # OCI's knows no health check
            "--isolation", "chroot", "--pull-never", "--ignorefile", str(ignore),
            "--file", str(context / dockerfile), "--tag", tag, *arguments, str(context),
            env={"HF_TOKEN": TOKEN},
        )  # fmt: skip

    def inspect(self, tag: str) -> dict[str, Any]:
        """Return the image's configuration."""
        return dict(json.loads(self("inspect", "--type", "image", tag))["Docker"]["config"])

    @contextlib.contextmanager
    def container(self, tag: str) -> Iterator[Container]:
        """Make a container of an image."""
        name = self("from", "--pull-never", tag)
        try:
            yield Container(self, name, self.inspect(tag), Path(self("mount", name)))
        finally:
            self("rm", name)


class Container:
    """A container: its files below `root`, and its command, run as its user."""

    def __init__(self, builder: Builder, name: str, config: dict[str, Any], root: Path) -> None:
        self._builder = builder
        self.name = name
        self.config = config
        self.root = root

    def command(self, *words: str, env: dict[str, str], volume: Path | None = None) -> list[str]:
        """Return the command line that runs `words`, or else the image's own command."""
        options = [word for item in env.items() for word in ("--env", "=".join(item))]
        if volume is not None:
            options += ["--volume", f"{volume}:/runpod-volume"]
        options += ["--isolation", "chroot", "--user", self.config["User"], self.name, "--"]
        return self._builder.command("run", *options, *(words or self.config["Entrypoint"]))

    @contextlib.contextmanager
    def running(self, log: Path, env: dict[str, str], volume: Path | None = None) -> Iterator[psutil.Process]:
        """Run the image's command; what it prints goes to `log`. Ends it as the platform does, then for good."""
        with log.open("wb") as file:
            process = subprocess.Popen(
                self.command(env=env, volume=volume), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
            )
        main = psutil.Process(process.pid)
        try:
            yield main
        finally:
            family = main.children(recursive=True)
            for child in reversed(family):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.send_signal(signal.SIGKILL)
            process.wait(30)
