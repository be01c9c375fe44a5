"""The settings of a fleet: `FLEET_*`, beside the `SERVE_*` that each of its engines has."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode, SettingsConfigDict

from client.variables import Variables, setting
from serving.errors import ConfigurationError


def _words(value: object) -> object:
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


def server_address(url: str) -> str:
    """Return the address of a server, such as http://10.0.0.5:8000, in one form. Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
        raise ValueError("it must be like http://10.0.0.5:8000, with no path.")
    if parts.query or parts.fragment or parts.username or parts.password or parts.port == 0:
        raise ValueError("it must be like http://10.0.0.5:8000, with nothing else.")
    return url.rstrip("/")


def _addresses(urls: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(server_address(url) for url in urls))


class FleetSettings(Variables):
    """How many engines, and which others."""

    model_config = SettingsConfigDict(env_prefix="FLEET_")
    error = ConfigurationError

    engines: int | None = setting(
        None,
        "a number of engines, 1 or more",
        "engines on this machine, each with an equal part of its GPUs; unset: as many as the plan has copies, "
        "without a GPU 2",
        ge=1,
    )
    urls: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words), AfterValidator(_addresses)] = setting(
        (),
        "addresses like http://10.0.0.5:8000, comma-separated",
        "servers on other machines that answer with the same model and keys, comma-separated",
    )
    drain_timeout: float = setting(
        1800.0,
        "a number of seconds",
        "longest wait of `reload` for the requests of one engine, in seconds; after it the engine is left as it is",
        ge=0,
        allow_inf_nan=False,
    )
