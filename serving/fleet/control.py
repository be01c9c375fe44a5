"""How `reload` talks to a running fleet: lines of JSON over a Unix socket that only this user may use.

The socket's name is abstract (unix(7)): it lies in no folder, and is gone with the fleet, however that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.errors import Refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Handler = Callable[[dict[str, Any], Callable[[dict[str, Any]], None], asyncio.Event], Awaitable[None]]

PREFIX = f"gemma-vllm-kit/fleet/{os.getuid()}/"
PEER = struct.Struct("3i")  # pid, uid, gid


async def listen(port: int, handle: Handler) -> asyncio.Server:
    """Listen for the fleet at `port`. `handle` gets the request, a way to answer, and what is set when the caller goes.

    Raises Refused if there is a fleet on that port already.
    """

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size)
        gone = asyncio.Event()

        async def watch() -> None:
            while await reader.read(64):
                pass
            gone.set()

        def answer(message: dict[str, Any]) -> None:
            if not gone.is_set():
                writer.write(json.dumps(message).encode() + b"\n")

        with contextlib.suppress(OSError, ValueError):
            if PEER.unpack(peer)[1] in (os.getuid(), 0):
                request = json.loads(await reader.readline())
                watching = asyncio.create_task(watch())
                try:
                    await handle(request, answer, gone)
                finally:
                    watching.cancel()
                await writer.drain()
        writer.close()

    try:
        return await asyncio.start_unix_server(connected, path=f"\0{PREFIX}{port}")
    except OSError as error:
        raise Refused(f"A fleet runs on port {port} already: `make reload` restarts its engines.") from error


def fleets() -> list[int]:
    """Return the ports of the fleets of this user that run here."""
    lines = Path("/proc/net/unix").read_text("utf-8", "replace").splitlines()
    names = {line.rpartition(" ")[2] for line in lines}
    return sorted(int(name.rpartition("/")[2]) for name in names if name.startswith(f"@{PREFIX}"))


async def ask(port: int, request: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """Send a request to the fleet at `port`; yield its answers. Raises Refused if it is not there."""
    try:
        reader, writer = await asyncio.open_unix_connection(f"\0{PREFIX}{port}")
    except OSError as error:
        raise Refused(f"No fleet runs on port {port}: `make fleet` starts one.") from error
    try:
        writer.write(json.dumps(request).encode() + b"\n")
        async for line in reader:
            yield json.loads(line)
    finally:
        writer.close()
