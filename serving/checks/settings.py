"""What the settings alone forbid, on any machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serving.checks.check import Check
from serving.errors import ConfigurationError

if TYPE_CHECKING:
    from serving.settings import ServeSettings


def refuse_open_server(settings: ServeSettings) -> None:
    """Raise ConfigurationError if everybody on the network could use the server without a key."""
    if not settings.loopback and settings.api_key is None and not settings.allow_open:
        raise ConfigurationError(
            f"SERVE_HOST={settings.host!r} without a key would serve everybody who can reach it: set SERVE_API_KEY, "
            "or SERVE_ALLOW_OPEN=1 if that is meant."
        )


def callers(settings: ServeSettings) -> Check:
    """Check who may use the server."""
    try:
        refuse_open_server(settings)
    except ConfigurationError as error:
        return Check.failed("callers", error, "SERVE_API_KEY=... make serve")
    where = "this machine" if settings.loopback else f"whoever reaches {settings.host}"
    key = " with the key" if settings.api_key else ""
    return Check("callers", "ok", f"{where} may ask{key}")
