"""The certificate that vLLM shows where it serves HTTPS: whether the files are right, and for whom it is good."""

from __future__ import annotations

import contextlib
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serving.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from serving.settings import ServeSettings

TIMEOUT_S = 5.0


class _PassphraseNeeded(Exception):
    pass


def refuse_bad_pair(settings: ServeSettings) -> None:
    """Raise ConfigurationError unless SERVE_TLS_CERT and SERVE_TLS_KEY are a pair that serves, or both unset."""
    cert, key = settings.tls_cert, settings.tls_key
    if cert is None and key is None:
        return
    if cert is None or key is None:
        has, lacks = ("KEY", "CERT") if cert is None else ("CERT", "KEY")
        raise ConfigurationError(
            f"SERVE_TLS_{has} is set and SERVE_TLS_{lacks} is not: HTTPS needs both, plain HTTP none of them."
        )
    for name, file in (("SERVE_TLS_CERT", cert), ("SERVE_TLS_KEY", key)):
        try:
            file.read_bytes()
        except OSError as error:
            raise ConfigurationError(f"{name}={str(file)!r} cannot be read: {error.strerror}.") from error
    try:
        ssl.create_default_context().load_verify_locations(cert)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"SERVE_TLS_CERT={str(cert)!r} holds no certificate in PEM form.") from error
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, _no_passphrase)
    except _PassphraseNeeded:
        raise ConfigurationError(
            f"SERVE_TLS_KEY={str(key)!r} is locked by a passphrase, for which nobody is there to ask: "
            f"`openssl pkey -in {key} -out unlocked.pem` unlocks it."
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"SERVE_TLS_KEY={str(key)!r} is not the private key, in PEM form, of SERVE_TLS_CERT={str(cert)!r}."
        ) from error


def _no_passphrase() -> str:
    raise _PassphraseNeeded


@dataclass(frozen=True)
class Certificate:
    """What is known of the certificate that a server shows.

    `names` are those that it is for, `trusted` is whether this machine's own authorities vouch for it under `name`, the
    one to reach the server by; `problem` is why nobody will trust it.
    """

    name: str
    names: tuple[str, ...] = ()
    trusted: bool = False
    problem: str | None = None


def shown_certificate(host: str, port: int, cert: Path) -> Certificate:
    """Ask a server that shows the certificate in the file `cert`; `host` is how it is reached from here."""
    context = ssl.create_default_context(cafile=str(cert))
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the file need not hold the authority that signed it
    try:
        names = _names(_handshake(host, port, context, host))
    except ssl.SSLCertVerificationError as error:
        return Certificate(host, problem=error.verify_message)
    except (OSError, ValueError):
        return Certificate(host)
    usable = [name for name in names if "*" not in name]
    name = host if host in names or not usable else "localhost" if "localhost" in usable else usable[0]
    with contextlib.suppress(OSError, ValueError):
        _handshake(host, port, ssl.create_default_context(), name)
        return Certificate(name, names, trusted=True)
    return Certificate(name, names)


def _handshake(host: str, port: int, context: ssl.SSLContext, name: str) -> dict[str, Any]:
    with (
        socket.create_connection((host, port), TIMEOUT_S) as plain,
        context.wrap_socket(plain, server_hostname=name) as connection,
    ):
        return dict(connection.getpeercert() or {})


def _names(certificate: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(name) for _, name in certificate.get("subjectAltName", ()))
