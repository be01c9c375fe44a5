"""Short questions to a vLLM of this machine, over plain HTTP or TLS, with bounds on time and size."""

from __future__ import annotations

import http.client
import ssl
from dataclasses import dataclass
from functools import cached_property

TIMEOUT_S = 5.0
BODY_LIMIT = 16 << 20


@dataclass(frozen=True)
class Answer:
    """An answer; `body` is cut at BODY_LIMIT."""

    status: int
    body: bytes


@dataclass(frozen=True)
class Probe:
    """Where vLLM answers: `host` as it is reached from here, without brackets.

    No proxy of the environment has a business on this way. Whose certificate it is is not asked: the process behind the
    port is known to be ours, and a certificate that has expired, or was renewed, must not look like a vLLM that hangs.
    Safe to use from several threads.
    """

    host: str
    port: int
    tls: bool = False

    def get(self, path: str, *, key: str | None = None, timeout: float = TIMEOUT_S) -> Answer | None:
        """Return the answer to GET, None if there is none within `timeout` seconds."""
        connection = self._connection(timeout)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {key}"} if key else {})
            response = connection.getresponse()
            return Answer(response.status, response.read(BODY_LIMIT))
        except (OSError, ValueError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        if not self.tls:
            return http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        return http.client.HTTPSConnection(self.host, self.port, timeout=timeout, context=self._context)

    @cached_property
    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
