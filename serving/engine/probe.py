"""Short questions to a vLLM of this machine, over plain HTTP or TLS, with bounds on time and size."""

from __future__ import annotations

import http.client
import ssl
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT_S = 5.0
BODY_LIMIT = 16 << 20


@dataclass(frozen=True)
class Answer:
    """An answer; `body` is cut at BODY_LIMIT."""

    status: int
    body: bytes


@dataclass(frozen=True)
class Probe:
    """Where vLLM answers: `host` as it is reached from here, without brackets. `tls_cert` is the certificate it shows.

    No proxy of the environment has a business on this way. The certificate is compared with the file, whatever name it
    bears. Safe to use from several threads.
    """

    host: str
    port: int
    tls_cert: Path | None = None

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

    def names(self) -> tuple[str, ...]:
        """Return the names and addresses that the certificate is for, none without TLS or without an answer."""
        if self.tls_cert is None:
            return ()
        connection = self._connection(TIMEOUT_S)
        try:
            connection.connect()
            shown: Any = connection.sock.getpeercert() if isinstance(connection.sock, ssl.SSLSocket) else None
            return tuple(str(name) for _, name in (shown or {}).get("subjectAltName", ()))
        except (OSError, ValueError):
            return ()
        finally:
            connection.close()

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        if self.tls_cert is None:
            return http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        return http.client.HTTPSConnection(self.host, self.port, timeout=timeout, context=self._tls)

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.tls_cert))
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the file need not hold the authority that signed it
        return context
