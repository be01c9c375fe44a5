"""`make serve` as a user runs it, for tests that need a server which is really there."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
STARTUP_S = 600.0


def free_port() -> int:
    """Return a port of loopback that nobody holds now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_environment(**settings: str) -> dict[str, str]:
    """Return this environment without the kit's own variables, and with `settings`."""
    ours = ("SERVE_", "LLM_", "WORKER_", "DEPLOY_", "RUNPOD_", "HF_TOKEN", "MAKE", "MFLAGS")
    return {k: v for k, v in os.environ.items() if not k.startswith(ours)} | settings


@dataclass
class Serve:
    """A running `make serve` (or another command that ends in the supervisor), with what it has printed."""

    settings: dict[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ("make", "serve")
    port: int = field(default_factory=free_port)
    output: list[str] = field(default_factory=list)
    cwd: Path = ROOT
    log: Path = Path()  # SERVE_LOG_FILE and SERVE_API_KEY, where the settings name them
    key: str = ""

    def __post_init__(self) -> None:
        """Start it."""
        self.log, self.key = Path(self.settings.get("SERVE_LOG_FILE", "")), self.settings.get("SERVE_API_KEY", "")
        environment = clean_environment(SERVE_PORT=str(self.port), **self.settings)
        self.process = subprocess.Popen(
            self.command,
            cwd=self.cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stdout:
            for line in stdout:
                self.output.append(line.rstrip("\n"))

    @property
    def base_url(self) -> str:
        """Return the OpenAI base URL."""
        return f"http://127.0.0.1:{self.port}/v1"

    def wait_for(self, text: str, *, times: int = 1, within: float = STARTUP_S) -> None:
        """Wait until `text` has been printed on so many lines."""
        deadline = time.monotonic() + within
        while sum(text in line for line in list(self.output)) < times:
            shown = "\n".join(self.output[-40:])
            assert self.process.poll() is None, f"ended with {self.process.returncode} before {text!r}:\n{shown}"
            assert time.monotonic() < deadline, f"no {text!r} within {within} s:\n{shown}"
            time.sleep(0.05)

    @property
    def supervisor(self) -> psutil.Process:
        """Return the supervisor's process."""
        family = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        return next(p for p in family if p.cmdline()[1:3] == ["-m", "serving"])

    def descendants(self) -> list[psutil.Process]:
        """Return every process that belongs to this run, vLLM's included."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def engine(self) -> psutil.Process:
        """Return vLLM's main process: the leader of its session."""
        reaper = next(p for p in self.supervisor.children() if "reaper.py" in " ".join(p.cmdline()))
        return reaper.children()[0]

    def wait(self, within: float = 120.0) -> int:
        """Wait for the end; return the exit status."""
        code = self.process.wait(within)
        self._reader.join(10)
        return code

    def close(self) -> None:
        """End it, whatever state it is in."""
        if self.process.poll() is None:
            with contextlib.suppress(StopIteration, psutil.Error):
                self.supervisor.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.wait(90)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        self._reader.join(10)


def ask(server: Serve, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m client` against a server."""
    return subprocess.run(
        [sys.executable, "-m", "client", *arguments],
        cwd=ROOT,
        env=clean_environment(LLM_BASE_URL=server.base_url, **settings),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
