"""Where the bytes of an answer come from.

Reading aiohttp's own reader, which lies below the response of the openai client, spares the four generators that the
layers between put around every read. Where something else is below, or the body is compressed, the response's public
`aiter_bytes()` serves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from aiohttp import ClientResponse

_DRAIN_LIMIT = 64 * 2**10  # bytes


class Source(Protocol):
    """Give an answer's bytes."""

    async def read(self) -> bytes:
        """Return what has arrived, waiting until something has; b"" at the end."""

    async def close(self) -> None:
        """Close the connection, or give it back if all was read."""

    def drop(self) -> None:
        """Close the connection at once, as far as that is possible without awaiting."""

    @property
    def at_end(self) -> bool:
        """Tell whether nothing is left to read, as far as that is known."""


def open_source(stream: Any) -> Source:
    """Return the source below `stream`, an `openai.AsyncStream`."""
    below = _aiohttp_response(stream.response)
    return DirectSource(stream, below) if below is not None else ResponseSource(stream)


class DirectSource:
    """Read from aiohttp's reader."""

    def __init__(self, stream: Any, below: ClientResponse) -> None:
        self._stream = stream
        self._below = below
        self.read = below.content.readany

    @property
    def at_end(self) -> bool:
        """Tell whether nothing is left to read."""
        return self._below.content.at_eof()

    async def close(self) -> None:
        """Close the connection, or give it back if all was read."""
        self.drop()
        await self._stream.response.aclose()

    def drop(self) -> None:
        """Close the connection at once; does nothing once all was read."""
        if not self._below.content.is_eof():
            self._below.close()


class ResponseSource:
    """Read through the response's public interface."""

    def __init__(self, stream: Any) -> None:
        self._response = stream.response
        self._bytes = stream.response.aiter_bytes()
        self.at_end = False

    async def read(self) -> bytes:
        """Return what has arrived, waiting until something has; b"" at the end."""
        async for data in self._bytes:
            if data:
                return bytes(data)
        self.at_end = True
        return b""

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
