"""A cold start: from settings to a vLLM that answers, with the time that each step took in the log."""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from client.settings import DEFAULT_MODEL
from serving.engine.command import plan_arguments
from serving.engine.download import report_download
from serving.engine.process import Engine
from serving.engine.progress import Progress
from serving.launch import find_hardware, prepare, settle
from worker.volume import CompiledCode, Weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from serving.settings import ServeSettings

logger = logging.getLogger(__name__)

# At the end no request runs any more: a vLLM that takes longer than this to leave is killed.
LEAVE_S = 5.0
MOST_PLANS = 5


class EngineStart:
    """Start one vLLM as `settings` say. `begin` is the monotonic clock at the process's start.

    All checks are made when this is made, before vLLM takes the GPU: what can be told from the settings, the driver,
    the disk and the plan, and nothing that asks the network. Raises ServingError.
    """

    def __init__(self, settings: ServeSettings, volume: Path, begin: float) -> None:
        self._settings = settings
        self._begin = begin
        for line in use_weights(settings, Weights(volume)):
            self._say(line)
        launch = prepare(settings, self._say)
        command = launch.command
        self._compiled = CompiledCode(
            volume, (*plan_arguments(launch.plan), *(gpu.name for gpu in launch.hardware.gpus))
        )
        env = command.env | self._compiled.restore()
        self.served_name = command.served_name
        self.origin = command.base_url.removesuffix("/v1")
        self._download = launch.download
        self._processes = launch.processes
        self.max_num_seqs = launch.plan.max_num_seqs
        self._progress = Progress(settings.log_level, settings.log_file)
        self._engine = Engine(dataclasses.replace(command, env=env), on_line=self._progress.line)

    @contextmanager
    def engine(self) -> Iterator[Engine]:
        """Start vLLM; when the block is left, however that is, nothing of it remains."""
        with self._progress:
            self._say(f"starting vLLM for {self.served_name}")
            self._progress.begin(self._processes)
            self._engine.start()
            try:
                yield self._engine
            finally:
                self._engine.terminate()
                if self._engine.wait(LEAVE_S) is None:
                    self._engine.kill()
                    self._engine.wait()

    def wait_ready(self) -> None:
        """Wait until vLLM answers. Raises EngineFailed."""
        with report_download(self._download, self._progress.detail):
            self._engine.wait_ready(self._settings.startup_timeout)
        self._progress.end()
        self._say(f"vLLM is ready: {self.served_name}")
        threading.Thread(target=self._compiled.save, name="keep-compiled-code", daemon=True).start()

    def _say(self, text: str) -> None:
        for line in text.splitlines():
            logger.info("[%6.1fs] %s", time.monotonic() - self._begin, line)


def use_weights(settings: ServeSettings, weights: Weights) -> tuple[str, ...]:
    """Point this process, and so vLLM, to the cache that has what the plan takes; return what is to be said about it.

    Of a model's checkpoints the plan may take another than the one that is in the image or on the volume, and the hub
    must then be asked. And what lies in a cache says how large a checkpoint is, so that the plan may change with the
    cache: it is made until it and the cache belong together.
    """
    hardware = find_hardware(settings)
    if hardware.problem:
        return ()  # which `prepare` says
    given = {name: os.environ.get(name) for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE")}
    hub_cache = weights.described_in(settings.model or DEFAULT_MODEL)
    chosen = None
    for _ in range(MOST_PLANS):
        settled = settle(settings, gpu=bool(hardware.gpus), hub_cache=hub_cache)
        if settled.tryout is not None:
            return ()  # a folder of this machine
        checkpoint = settled.plan(hardware).checkpoint
        if checkpoint is None:
            _set_variables(given)
            return ()  # nothing fits, which `prepare` says
        if checkpoint == chosen:
            return tuple(weights.about(chosen))
        chosen, hub_cache = checkpoint, None  # from here on in the cache that `prepare` will look into
        _set_variables(given | weights.env(chosen))
    _set_variables({"HF_HUB_OFFLINE": given["HF_HUB_OFFLINE"]})
    return ()


def _set_variables(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
