"""Keep the URLs of images (and videos, and sounds) that callers send out of this machine's own network.

vLLM fetches whatever a request names: `http://127.0.0.1:...`, a cloud's metadata service, a neighbour behind the same
firewall. Its own answer is a list of allowed domains (SERVE_MEDIA_DOMAINS); without one, this lets it fetch from public
addresses alone. The address is checked on the socket that is about to be connected, so that a name which resolves to
something else the second time gains nothing. Where a proxy is set (HTTP_PROXY, HTTPS_PROXY), the proxy makes the
connection and has the last word: only what the name resolves to here is checked.

vLLM imports this file inside its own environment (`--middleware media_guard.MediaGuard`, with this folder on
PYTHONPATH) and takes the connector by its name (VLLM_MEDIA_CONNECTOR=public). In vLLM 0.32 and 0.33 all that fetches
media for a request goes through such a connector.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Any
from urllib.request import getproxies, proxy_bypass

import aiohttp
from urllib3.util import parse_url
from vllm.connections import HTTPConnection
from vllm.exceptions import VLLMValidationError
from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY, MediaConnector

# One sentence for every name, address and port, so that it tells nothing of what is there.
SENTENCE = (
    "The URL's host has no public address, and this server fetches from no other: send the image itself (a data: URL), "
    "or let the server's operator name the host in SERVE_MEDIA_DOMAINS."
)

NAT64 = ipaddress.ip_network("64:ff9b::/96")


class MediaGuard:
    """The application itself: to import this module is all that is wanted."""

    def __new__(cls, app: Any) -> Any:
        """Return the application, so that a request takes no step more."""
        return app


def is_public(address: str) -> bool:
    """Whether an IP address is on the internet, and so is the one that it carries or stands for (IPv4 in IPv6)."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        nat64 = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in NAT64 else None
        if carried := ip.ipv4_mapped or ip.sixtofour or nat64:
            return is_public(str(carried))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def refuse_private(addresses: list[tuple[Any, ...]]) -> None:
    """Raise VLLMValidationError unless all the addresses, as `getaddrinfo` returns them, are public."""
    if not all(is_public(found[4][0]) for found in addresses):
        raise VLLMValidationError(SENTENCE, parameter="image_url")


def public_socket(found: tuple[Any, ...]) -> socket.socket:
    """Return a socket for an address, as `getaddrinfo` returns it. Raises OSError if that is not public."""
    family, kind, protocol, _, address = found
    if not is_public(address[0]):
        raise OSError(SENTENCE)
    return socket.socket(family, kind, protocol)


class PublicConnection(HTTPConnection):
    """Fetches from public addresses only. Redirects are for VLLM_MEDIA_URL_ALLOW_REDIRECTS to refuse."""

    async def get_async_client(self) -> aiohttp.ClientSession:
        """Return the session for connections that this process makes itself."""
        if self._async_client is None or not self.reuse_client:
            connector = aiohttp.TCPConnector(socket_factory=public_socket)
            self._async_client = aiohttp.ClientSession(connector=connector)
        return self._async_client

    async def get_async_response(self, url: str, **options: Any) -> Any:
        """Ask for `url`. Raises VLLMValidationError for a host that has an address which is not public."""
        parts = parse_url(url)
        host = (parts.hostname or "").strip("[]")
        proxied = goes_through_proxy(parts.scheme, host)
        port = parts.port or {"https": 443}.get(parts.scheme or "", 80)
        try:
            addresses = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            if not proxied:
                raise VLLMValidationError(SENTENCE, parameter="image_url") from error
            addresses = []  # the proxy may know more names than we
        refuse_private(addresses)
        if proxied:
            return await through_proxy.get_async_response(url, **options)
        return await super().get_async_response(url, **options)

    def get_response(self, url: str, **options: Any) -> Any:
        """Refuse: nothing in vLLM's server fetches like this, and requests would connect to what is not checked."""
        raise VLLMValidationError(SENTENCE, parameter="image_url")


def goes_through_proxy(scheme: str | None, host: str) -> bool:
    """Whether the environment names a proxy for such a URL."""
    return (scheme or "") in getproxies() and not proxy_bypass(host)


through_proxy = HTTPConnection()
connection = PublicConnection()


@MEDIA_CONNECTOR_REGISTRY.register("public")
class PublicMediaConnector(MediaConnector):
    """vLLM's own connector, but for whom it connects to."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options, connection=connection)
