"""The port that vLLM is to listen on: whether it is free, and who holds it if it is not."""

from __future__ import annotations

import contextlib
import errno
import socket

import psutil

from serving.errors import Refused


def refuse_taken_port(host: str, port: int) -> None:
    """Raise Refused, naming the holder if it is known, unless `host`:`port` can be bound."""
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
