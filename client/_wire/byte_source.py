"""Where the bytes of an answer come from.

Reading aiohttp's own reader, which lies below the response of the openai client, spares the four generators that the
layers between put around every read. Where something else is below, or the body is compressed, the response's public
`aiter_bytes()` serves.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from aiohttp import ClientResponse

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


def open_byte_stream(stream: Any) -> ByteStream:
    """Return the bytes below `stream`, an `openai.AsyncStream`."""
    below = _aiohttp_response(stream.response)
    return DirectStream(stream, below) if below is not None else ResponseStream(stream)


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


def _aiohttp_response(response: Any) -> ClientResponse | None:
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        return None
    from aiohttp import ClientResponse, StreamReader  # loaded on first use

    stream = getattr(response.stream, "_stream", None)
    below = getattr(stream, "_aiohttp_response", None)
    if isinstance(below, ClientResponse) and isinstance(below.content, StreamReader):
        return below
    return None
