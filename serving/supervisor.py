"""Keep vLLM up: start it, say when it is ready, start it again when it dies, drain it when told to stop."""

from __future__ import annotations

import json
import logging
import queue
import shlex
import signal
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from client.settings import DEFAULT_BASE_URL
from serving.engine.download import followed
from serving.engine.process import EXIT_MARGIN_S, Engine
from serving.engine.progress import Progress
from serving.engine.vllm_log import compare_with_log
from serving.errors import EngineFailed

if TYPE_CHECKING:
    from serving.launch import Launch

logger = logging.getLogger(__name__)

MAX_RESTARTS = 5
# A vLLM that served for this long had started well: its end is a new story, not one more of a series.
STEADY_S = 300.0
# A vLLM that is still loading has nobody to drain for.
LOADING_GRACE_S = 5.0
QUESTION = "What is the capital of France?"


class Supervisor:
    """Run vLLM as `launch` says until a signal ends it.

    SIGTERM, SIGINT and SIGHUP drain; a second one kills. Must run in the main thread.
    """

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._engine: Engine | None = None
        self._ready = False
        self._stop = threading.Event()
        self._signals: queue.SimpleQueue[int | None] = queue.SimpleQueue()

    def run(self) -> int:
        """Serve until told to stop, and return 0.

        Raises Refused if vLLM cannot even be tried, EngineFailed if it does not start or has died too often.
        """
        settings = self._launch.settings
        # A handler may run inside any call of the main thread, itself included, so it must take no lock: this put is
        # safe there, and a thread does the rest.
        before = {
            number: signal.signal(number, lambda given, _: self._signals.put(given))
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        }
        try:
            with Progress(settings.log_level, settings.log_file) as progress:
                threading.Thread(target=self._obey, args=(progress,), name="signals", daemon=True).start()
                return self._serve(progress)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self._signals.put(None)

    def _serve(self, progress: Progress) -> int:
        restarts = 0
        while True:
            lived, failure = self._live_once(progress)
            if self._stop.is_set():
                progress.say("Stopped.")
                return 0
            if lived is None and restarts == 0:
                raise failure  # it has never worked: trying again would only hide why
            if lived is not None and lived > STEADY_S:
                restarts = 0
            if restarts == MAX_RESTARTS:
                raise EngineFailed(f"vLLM died {restarts + 1} times: given up. {failure.reason}", failure.tail)
            delay = 2**restarts
            restarts += 1
            progress.say("\n".join((*failure.tail, f"vLLM died. {failure.reason}")))
            progress.say(f"Starting it again in {delay} s ({restarts} of {MAX_RESTARTS}).")
            if self._stop.wait(delay):
                return 0

    def _live_once(self, progress: Progress) -> tuple[float | None, EngineFailed]:
        """Run vLLM to its end; return for how many seconds it was ready (None: never), and why it ended."""
        lines: list[str] = []

        def on_line(line: str) -> None:
            progress.line(line)
            if not self._ready and "KV cache" in line:
                lines.append(line)

        self._ready = False
        engine = Engine(self._launch.command, on_line=on_line)
        progress.begin("resolving the model")
        engine.start()
        self._engine = engine
        if self._stop.is_set():
            engine.kill()
        try:
            with followed(self._launch.download, progress.detail):
                engine.wait_ready(self._launch.settings.startup_timeout)
        except EngineFailed as failure:
            progress.end()
            return None, failure
        self._ready = True
        begin = time.monotonic()
        took = progress.end()
        self._announce(took)
        if difference := compare_with_log(self._launch.plan, lines):
            progress.say(difference)
        engine.wait()
        return time.monotonic() - begin, engine.failure()

    def _announce(self, took: float) -> None:
        launch = self._launch
        context = served_context(launch)
        print(
            f"Ready after {took:.1f} s: {launch.command.base_url}",
            f"  model    {launch.command.served_name}" + (f" ({launch.about})" if launch.about else ""),
            f"  context  {context:,} tokens per request" if context else "  context  not reported",
            f"  ask      {question_command(launch)}",
            sep="\n",
            flush=True,
        )

    def _obey(self, progress: Progress) -> None:
        """Turn signals into a stop: the first drains, the next kills."""
        while self._signals.get() is not None:
            again = self._stop.is_set()
            self._stop.set()
            engine = self._engine
            if engine is None:
                continue
            if again:
                engine.kill()
                continue
            engine.terminate()
            drain = self._launch.settings.shutdown_timeout
            grace = drain + EXIT_MARGIN_S if self._ready else LOADING_GRACE_S
            if self._ready:
                progress.say(f"Stopping: running requests have {drain:.0f} s to finish; once more stops at once.")
            threading.Thread(target=_kill_after, args=(engine, grace), daemon=True).start()


def _kill_after(engine: Engine, seconds: float) -> None:
    if engine.wait(seconds) is None:
        engine.kill()


def served_context(launch: Launch) -> int | None:
    """Ask the server for the context length that it settled on, in tokens; None if it does not say."""
    request = urllib.request.Request(f"{launch.command.base_url}/models")
    if launch.settings.api_key:
        request.add_header("Authorization", f"Bearer {launch.settings.api_key.get_secret_value()}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy has no business on loopback
    try:
        with opener.open(request, timeout=10) as response:
            length = json.load(response)["data"][0]["max_model_len"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return length if isinstance(length, int) else None


def question_command(launch: Launch) -> str:
    """Return a shell command, to be run where `make serve` runs, that asks the server a question."""
    settings, command = launch.settings, launch.command
    words = []
    if (settings.llm_base_url or DEFAULT_BASE_URL).replace("localhost", "127.0.0.1").rstrip("/") != command.base_url:
        words.append(f"LLM_BASE_URL={shlex.quote(command.base_url)}")
    if settings.api_key and not settings.llm_api_key:
        words.append('LLM_API_KEY="$SERVE_API_KEY"')
    if settings.llm_model != command.served_name:
        words.append(f"LLM_MODEL={shlex.quote(command.served_name)}")
    python = Path(sys.executable)
    here = Path.cwd()
    shown = str(python.relative_to(here)) if python.is_relative_to(here) else str(python)
    return " ".join((*words, shlex.quote(shown), "-m client", shlex.quote(QUESTION)))
