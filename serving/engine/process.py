"""One life of one vLLM process: start it, know when it answers, stop it, leave nothing behind."""

from __future__ import annotations

import contextlib
import http
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from serving.engine.command import reachable
from serving.engine.diagnosis import FailureReader
from serving.engine.log_lines import read_lines
from serving.engine.port import listens, refuse_taken_port
from serving.engine.probe import Probe
from serving.errors import EngineFailed, Refused

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

    from serving.engine.command import EngineCommand

logger = logging.getLogger(__name__)

REAPER = Path(__file__).with_name("reaper.py")
TAIL_LINES = 20
# vLLM ends within about 10 s after its last request (measured on the CPU engine); past this it hangs.
EXIT_MARGIN_S = 30.0


def late(timeout: float) -> str:
    """Return the sentence on a start that takes longer than `timeout` seconds."""
    return f"vLLM was not ready in SERVE_STARTUP_TIMEOUT={timeout:.0f} s: allow more, or see its last lines."


class Engine:
    """Run vLLM once, under a reaper that kills all of it when this process ends, however it ends.

    `on_line` gets every line of vLLM's log, safe for a terminal, from a thread of the engine's. Everything else may be
    called from any thread, but `kill` and `terminate` not from a signal handler (they take a lock).
    """

    def __init__(self, command: EngineCommand, *, on_line: Callable[[str], None] | None = None) -> None:
        self.command = command
        self.base_url = command.base_url
        self.probe = Probe(reachable(command.host).strip("[]"), command.port, command.tls_cert is not None)
        self.pid: int | None = None
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.heard_at = time.monotonic()  # when it logged last
        self._failures = FailureReader()
        self._on_line = on_line
        self._returncode: int | None = None
        self._ended = threading.Event()
        self._orders: int | None = None
        self._orders_lock = threading.Lock()  # a closed descriptor's number may be somebody else's the next moment
        self._pump: threading.Thread | None = None

    def start(self) -> None:
        """Start vLLM. Raises Refused if the port is taken or the program cannot be run."""
        refuse_taken_port(self.command.host, self.command.port)
        orders_end, self._orders = os.pipe()
        reports_fd, reports_end = os.pipe()
        try:
            reaper = subprocess.Popen(
                [sys.executable, "-I", "-S", str(REAPER), str(orders_end), str(reports_end), *self.command.argv],
                env=os.environ | self.command.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[orders_end, reports_end],
                start_new_session=True,  # a Ctrl-C at the terminal is the supervisor's to handle
            )
        finally:
            os.close(orders_end)
            os.close(reports_end)
        reports = os.fdopen(reports_fd, encoding="utf-8")
        kind, _, rest = reports.readline().strip().partition(" ")
        if kind != "pid":
            reaper.communicate()
            reports.close()
            self._close_orders()
            raise Refused(f"vLLM could not be started ({rest}): SERVE_ENGINE must be the path of a `vllm` program.")
        self.pid = int(rest)
        self._pump = threading.Thread(target=self._read_log, args=(reaper,), name="vllm-log", daemon=True)
        self._pump.start()
        threading.Thread(target=self._await_end, args=(reaper, reports), name="vllm-end", daemon=True).start()

    def wait_answer(self, timeout: float | None = None) -> bool:
        """Wait until /health answers from the process that was started; return False if that did not come about.

        It does not if vLLM ends first, or if `timeout` seconds pass.
        """
        begin = time.monotonic()
        while not self._ended.wait(0.1):
            if self._is_healthy() and self._owns_port():
                self._failures.forget()  # what the start said does not explain a later end
                return True
            if timeout is not None and time.monotonic() - begin > timeout:
                return False
        return False

    def wait_ready(self, timeout: float) -> float:
        """Wait as `wait_answer` does; return the seconds that took.

        Raises EngineFailed if vLLM ends first, or if `timeout` seconds pass (vLLM is killed then).
        """
        begin = time.monotonic()
        if self.wait_answer(timeout):
            return time.monotonic() - begin
        if self.poll() is not None:
            raise self.failure()
        self.kill()
        self.wait()
        raise EngineFailed(late(timeout), tuple(self.tail))

    def failure(self) -> EngineFailed:
        """Return why vLLM ended, as an error with its last lines; call it when it has ended."""
        return EngineFailed(self._failures.cause(self._returncode).sentence, tuple(self.tail))

    def poll(self) -> int | None:
        """Return the exit status (negative: the signal), or None while vLLM runs."""
        return self._returncode if self._ended.is_set() else None

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end of all that is vLLM; return its exit status, or None after `timeout` seconds."""
        return self._returncode if self._ended.wait(timeout) else None

    def terminate(self) -> None:
        """Send SIGTERM: vLLM takes no new request and ends after the running ones (--shutdown-timeout at most)."""
        self._order(b"T")

    def kill(self) -> None:
        """Kill vLLM and everything that it started, now."""
        self._order(b"K")

    def stop(self, drain: float) -> int | None:
        """Let running requests finish for `drain` seconds at most, then make sure that nothing is left."""
        self.terminate()
        if self.wait(drain + EXIT_MARGIN_S) is None:
            logger.warning("vLLM did not end by itself %.0f s after SIGTERM: killed", drain + EXIT_MARGIN_S)
            self.kill()
        return self.wait()

    def _order(self, order: bytes) -> None:
        with self._orders_lock, contextlib.suppress(BrokenPipeError):  # the reaper has ended, and so has vLLM
            if self._orders is not None:
                os.write(self._orders, order)

    def _close_orders(self) -> None:
        with self._orders_lock:
            if self._orders is not None:
                os.close(self._orders)
            self._orders = None

    def _read_log(self, reaper: subprocess.Popen[bytes]) -> None:
        """Read all of the log, whatever becomes of a line: vLLM would stop, or die, where nobody reads."""
        assert reaper.stdout is not None
        with reaper.stdout as log:
            for line in read_lines(log.fileno()):
                self.tail.append(line)
                self.heard_at = time.monotonic()
                try:
                    self._failures.take(line)
                    if self._on_line:
                        self._on_line(line)
                except Exception:
                    logger.exception("A line of vLLM's log was lost")

    def _await_end(self, reaper: subprocess.Popen[bytes], reports: TextIO) -> None:
        code = -int(signal.SIGKILL)
        with reports:
            for report in reports:
                kind, _, rest = report.strip().partition(" ")
                if kind == "exit":
                    code = int(rest)
        reaper.wait()
        self._close_orders()
        if self.pid is not None:  # nothing is left, unless somebody killed the reaper
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        if self._pump:
            self._pump.join(5)
        self._returncode = code
        self._ended.set()

    def _is_healthy(self) -> bool:
        answer = self.probe.get("/health")
        return answer is not None and answer.status == http.HTTPStatus.OK

    def _owns_port(self) -> bool:
        try:
            main = psutil.Process(self.pid)
            return any(listens(process, self.command.port) for process in (main, *main.children(recursive=True)))
        except psutil.Error:
            return False
