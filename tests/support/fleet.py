"""A fleet as a user runs it, in a folder of its own with a `.env`, and what belongs to it."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import psutil

from tests.support.serving import ROOT, Serve, clean_environment

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = (sys.executable, "-m", "serving")


class FleetRun(Serve):
    """A running `python -m serving fleet`; `settings` go into `.env`, which `write` changes."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.write(**settings)
        super().__init__({"PYTHONPATH": str(ROOT)}, command=(*COMMAND, "fleet"), cwd=folder)

    def write(self, **settings: str) -> None:
        """Write `.env` anew."""
        (self.folder / ".env").write_text("".join(f"{name}='{value}'\n" for name, value in settings.items()))

    def reload(self, *arguments: str) -> subprocess.Popen[str]:
        """Begin `python -m serving reload`."""
        return subprocess.Popen(
            (*COMMAND, "reload", *arguments),
            cwd=self.folder,
            env=clean_environment(PYTHONPATH=str(ROOT), SERVE_PORT=str(self.port)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def engines(self) -> list[psutil.Process]:
        """Return the vLLM of each engine."""
        return [p for p in self.descendants() if "--served-model-name" in (w := words(p)) and "-I" not in w]

    def get(self, path: str, key: str | None = None) -> tuple[int, dict[str, str], Any]:
        """Ask the front; return status, headers and the body, read as JSON where it is some."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}")
        if key is not None:
            request.add_header("Authorization", f"Bearer {key}")
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                status, headers, body = response.status, response.headers, response.read()
        except urllib.error.HTTPError as error:
            status, headers, body = error.code, error.headers, error.read()
        with contextlib.suppress(ValueError):
            return status, dict(headers), json.loads(body)
        return status, dict(headers), body

    def kill(self) -> None:
        """Kill the fleet's own process."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)


def words(process: psutil.Process) -> list[str]:
    """Return a process's command line, none if it is gone."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []
