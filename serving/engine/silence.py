"""A start that has gone silent, explained while it is: whether vLLM works, or waits for what may never come."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from serving.engine.process import Engine

SILENT_S = 120.0
INTERVAL_S = 10.0
WORKING_SHARE = 0.2  # of a processor; a start that works takes a whole one
READING_RATE = 1e6  # bytes per second
NCCL = (
    "With several GPUs a start that stays here mostly waits for one of them: set NCCL_P2P_DISABLE=1 if they cannot "
    "reach each other, and NCCL_DEBUG=INFO to see."
)


@dataclass(frozen=True)
class Effort:
    """What vLLM's processes have taken so far: seconds of CPU, bytes from the disk, and whether one is stopped."""

    cpu: float = 0.0
    read: float = 0.0
    stopped: bool = False


def effort_of(pid: int | None) -> Effort:
    """Return what vLLM's main process and all below it have taken."""
    cpu = read = 0.0
    stopped = False
    try:
        main = psutil.Process(pid)
        family = [main, *main.children(recursive=True)]
    except psutil.Error:
        return Effort()
    for process in family:
        try:
            times = process.cpu_times()
            cpu += times.user + times.system
            stopped |= process.status() == psutil.STATUS_STOPPED
            read += process.io_counters().read_bytes
        except psutil.Error:
            continue
    return Effort(cpu, read, stopped)


def explain(before: Effort, after: Effort, seconds: float, *, silent: float, gpus: int) -> str:
    """Return what a silence of `silent` seconds means, by what was taken in the last `seconds`."""
    head = f"vLLM has logged nothing for {silent:.0f} s"
    if after.stopped:
        return f"{head}: one of its processes is stopped (`kill -CONT` makes it go on)."
    rate = (after.read - before.read) / seconds
    if rate > READING_RATE:
        return f"{head}, and reads {rate / 1e6:,.0f} MB/s from the disk: it is loading."
    share = (after.cpu - before.cpu) / seconds
    if share > WORKING_SHARE:
        said = f"{head}, and keeps {max(share, 1):.0f} of the processors busy: it computes, or compiles."
        return f"{said} {NCCL}" if gpus > 1 else said
    said = f"{head}, and neither computes nor reads: it waits."
    if gpus > 1:
        return f"{said} {NCCL}"
    return f"{said} It may be for the network, a disk that does not answer, or a lock that another process holds."


@contextmanager
def explain_silence(engine: Engine, tell: Callable[[str], None], *, gpus: int) -> Iterator[None]:
    """Tell what a long silence of a start means, once for each, until the block is left."""
    done = threading.Event()

    def watch() -> None:
        explained = 0.0
        before, at = effort_of(engine.pid), time.monotonic()
        while not done.wait(INTERVAL_S):
            after, now = effort_of(engine.pid), time.monotonic()
            silent = now - engine.heard_at
            if silent >= SILENT_S and engine.heard_at > explained:
                explained = engine.heard_at
                tell(explain(before, after, now - at, silent=silent, gpus=gpus))
            before, at = after, now

    thread = threading.Thread(target=watch, name="silence", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
