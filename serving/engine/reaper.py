"""Keep one vLLM from outliving whoever started it.

Run as `python -I -S reaper.py ORDERS REPORTS PROGRAM ARG...`, with the standard library alone, as a process of its own
between the kit and vLLM. ORDERS and REPORTS are the ends of two pipes to the kit. (Not one socket: closing it with an
order unread would throw away the last report.) The reaper starts the program in a session of its own and then

* reports `pid N`, and when the program has ended and nothing of it is left, `exit CODE` (as `subprocess` counts:
  negative for a signal), each on a line;
* reads `T` (SIGTERM to the program, which drains) and `K` (SIGKILL to all of it);
* takes the end of ORDERS for the death of the kit, by SIGKILL too, and kills all of it.

vLLM's engine runs in child processes that hold the GPU's memory. The reaper is their subreaper (prctl(2)), so that an
orphan of a crashed vLLM becomes its child and is killed before `exit` is reported.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def main(orders: int, reports: int, argv: list[str]) -> int:
    """Guard one run of `argv`; return when nothing of it is left."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # orders come through the pipe; the kit's death ends it
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write)

    def in_the_child() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # if somebody kills the reaper
        for restored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(restored, signal.SIG_DFL)

    os.set_inheritable(orders, False)
    os.set_inheritable(reports, False)
    try:
        child = subprocess.Popen(argv, start_new_session=True, preexec_fn=in_the_child)
    except OSError as error:
        _tell(reports, f"error {error.strerror}: {argv[0]}")
        return 127
    _tell(reports, f"pid {child.pid}")
    while child.poll() is None:
        ready, _, _ = select.select([orders, wake_read], [], [])
        if wake_read in ready:
            os.read(wake_read, 4096)
        if orders in ready:
            given = os.read(orders, 64)
            if b"T" in given:
                child.send_signal(signal.SIGTERM)
            if not given or b"K" in given:
                _kill_all(child)
    _kill_all(child)
    _tell(reports, f"exit {child.returncode}")
    return 0


def _tell(reports: int, line: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(reports, f"{line}\n".encode())


def _kill_all(child: subprocess.Popen[bytes]) -> None:
    """Kill the program's group and whatever else descends from it, and reap every one."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    while True:
        for pid in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = stat.read_text().rpartition(")")[2].split()[1]  # proc(5): pid (name) state ppid ...
            if int(parent) == os.getpid():
                found.append(int(stat.parent.name))
    return found


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
