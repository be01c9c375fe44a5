"""Where the bytes of an answer come from.

Reading aiohttp's own reader, which lies below the response of the openai client, spares the four generators that the
layers between put around every read. Where something else is below, or the body is compressed, the response's public
`aiter_bytes()` serves. Where an instrumentation has wrapped the openai client, its wrapper is iterated over, so that it
sees the chunks that it would see without us, and the bytes are taken from below it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from aiohttp import ClientResponse

_WRAPPERS = 5
_PIECE_LIMIT = 64 * 2**10  # bytes handed on at once: what is unpacked may be a thousand times what was sent


class ByteStream(Protocol):
    """An answer's bytes."""

    async def read(self) -> bytes:
        """Return what has arrived, waiting until something has; b"" at the end."""

    async def close(self) -> None:
        """Close the connection, or give it back if all was read."""

    def drop(self) -> None:
        """Close the connection at once, as far as that is possible without awaiting."""

    @property
    def at_end(self) -> bool:
        """Return whether nothing is left to read, as far as that is known."""


def open_byte_stream(stream: Any, watcher: Any = None) -> ByteStream:
    """Return the bytes below `stream`, an `openai.AsyncStream`; `watcher` is what an instrumentation made of it."""
    if watcher is not None:
        return WatchedStream(stream, watcher)
    below = _aiohttp_response(stream.response)
    return DirectStream(stream, below) if below is not None else ResponseStream(stream)


def find_stream(answered: Any) -> Any:
    """Return the `openai.AsyncStream` that `answered` is or, as an instrumentation's wrapper, holds; None for neither.

    They keep it as `__wrapped__` (wrapt's), `stream`, `_stream` or `response`.
    """
    from openai import AsyncStream  # loaded on first use

    for _ in range(_WRAPPERS):
        if issubclass(type(answered), AsyncStream):  # not isinstance: a mock with a spec would pass for one
            return answered
        if type(answered).__module__ == "unittest.mock":
            return None
        held = (getattr(answered, name, None) for name in ("__wrapped__", "stream", "_stream", "response"))
        answered = next((inner for inner in held if inner is not None), None)
    return None


class DirectStream:
    """Reads from aiohttp's reader."""

    def __init__(self, stream: Any, below: ClientResponse) -> None:
        self._stream = stream
        self._below = below
        self.read = below.content.readany

    @property
    def at_end(self) -> bool:
        """Return whether nothing is left to read."""
        return self._below.content.at_eof()

    async def close(self) -> None:
        """Close the connection, or give it back if all was read."""
        self.drop()
        await self._stream.response.aclose()

    def drop(self) -> None:
        """Close the connection at once; does nothing once all was read."""
        if not self._below.content.is_eof():
            self._below.close()


class ResponseStream:
    """Reads through the response's public interface, which also unpacks."""

    def __init__(self, stream: Any) -> None:
        self._response = stream.response
        self._bytes = stream.response.aiter_bytes()
        self._rest = b""
        self.at_end = False

    async def read(self) -> bytes:
        """Return what has arrived, waiting until something has; b"" at the end."""
        if self._rest:
            await asyncio.sleep(0)  # the others' turn: a packed stream can be all there at once
        else:
            async for data in self._bytes:
                if data:
                    self._rest = bytes(data)
                    break
            else:
                self.at_end = True
                return b""
        data, self._rest = self._rest[:_PIECE_LIMIT], self._rest[_PIECE_LIMIT:]
        return data

    async def close(self) -> None:
        """Close the connection, or give it back if all was read."""
        await self._response.aclose()

    def drop(self) -> None:
        """Do nothing: this response can only be closed by awaiting; its own clean-up must do."""


class WatchedStream:
    """Reads through an instrumentation's wrapper, which sees the openai client's chunks go by."""

    def __init__(self, stream: Any, watcher: Any) -> None:
        self._response = stream.response
        self._watcher = watcher
        self._chunks = aiter(watcher)
        self._read: list[bytes] = []
        self._failure: Exception | None = None
        self.at_end = False
        below = self._response.aiter_bytes

        async def keep_bytes() -> AsyncGenerator[bytes, None]:
            async for data in below():
                self._read.append(data)
                yield data

        self._response.aiter_bytes = keep_bytes

    async def read(self) -> bytes:
        """Return what has arrived, waiting until something has; b"" at the end."""
        if self._failure is not None:
            raise self._failure
        while not self._read and not self.at_end:
            try:
                await anext(self._chunks)
            except StopAsyncIteration:
                self.at_end = True
            except Exception as error:
                # The openai client's view of these bytes. Ours comes first, and it may know what they mean.
                self._failure, self.at_end = error, True
                if not self._read:
                    raise
        data, self._read = b"".join(self._read), []
        return data

    async def close(self) -> None:
        """Leave the wrapper as `async with` does, and close the connection, or give it back if all was read."""
        leave = getattr(type(self._watcher), "__aexit__", None)
        try:
            if leave is not None:
                await leave(self._watcher, None, None, None)
            elif hasattr(self._chunks, "aclose"):
                await self._chunks.aclose()
        finally:
            await self._response.aclose()

    def drop(self) -> None:
        """Do nothing: this response can only be closed by awaiting; its own clean-up must do."""


def _aiohttp_response(response: Any) -> ClientResponse | None:
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        return None
    from aiohttp import ClientResponse, StreamReader  # loaded on first use

    stream = getattr(response.stream, "_stream", None)
    below = getattr(stream, "_aiohttp_response", None)
    if isinstance(below, ClientResponse) and isinstance(below.content, StreamReader):
        return below
    return None
