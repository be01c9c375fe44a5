"""The port that vLLM is to listen on: whether it is free, and who holds it if it is not."""

from __future__ import annotations

import contextlib
import errno
import os
import socket

import psutil

from serving.engine.command import reachable
from serving.engine.probe import Probe
from serving.errors import Refused


def refuse_taken_port(host: str, port: int) -> None:
    """Raise Refused, naming the holder if it is known, unless `host`:`port` can be bound."""
    if (ours := _find_serve(host, port)) is not None:
        raise Refused(ours)
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise Refused(f"SERVE_HOST={host!r} is not an address of this machine: {error}.") from error
    with socket.socket(family, kind, proto) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except PermissionError as error:
            raise Refused(f"Port {port} needs privileges that you lack: set SERVE_PORT to 1024 or more.") from error
        except OSError as error:
            holder = _holder(port)
            if holder is None and error.errno != errno.EADDRINUSE:
                raise Refused(f"SERVE_HOST={host!r} cannot be bound: {error.strerror}.") from error
            by = f" by {holder}" if holder else ""
            raise Refused(f"Port {port} is taken{by}: stop that, or set SERVE_PORT to another port.") from error


def _find_serve(host: str, port: int) -> str | None:
    """Return a sentence on the `make serve` that has this port, if one has. A vLLM that loads does not listen yet."""
    for process in psutil.process_iter(["pid", "cmdline"]):
        if (process.info["cmdline"] or [])[1:4] != ["-m", "serving", "serve"] or process.pid == os.getpid():
            continue
        with contextlib.suppress(psutil.Error):
            for child in process.children(recursive=True):
                words = child.cmdline()
                if _value(words, "--port") != str(port) or not _overlap(_value(words, "--host"), host):
                    continue
                tls = "--ssl-certfile" in words
                probe = Probe(reachable(host).strip("[]"), port, tls)
                state = "starting" if probe.get("/health") is None else "up"
                url = f"{'https' if tls else 'http'}://{reachable(host)}:{port}/v1"
                return (
                    f"Port {port} is taken by another `make serve` (pid {process.pid}), which is {state} at {url}: "
                    "use that, stop it, or set SERVE_PORT to another port."
                )
    return None


def _value(words: list[str], flag: str) -> str | None:
    return words[words.index(flag) + 1] if flag in words[:-1] else None


def _overlap(one: str | None, other: str) -> bool:
    return one == other or bool({one, other} & {"0.0.0.0", "::"})  # noqa: S104 (a comparison, not a bind)


def _holder(port: int) -> str | None:
    with contextlib.suppress(psutil.Error, PermissionError):
        for connection in psutil.net_connections("inet"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
            if listens and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return None


def listens(process: psutil.Process, port: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in process.net_connections("inet"))
    return False
