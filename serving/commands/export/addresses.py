"""The addresses of machines that each run `make serve`, as `--url` gives them."""

from __future__ import annotations

from serving.errors import ConfigurationError
from serving.fleet.settings import server_address


def checked(urls: list[str]) -> list[str]:
    """Return the addresses without a slash at the end. Raises ConfigurationError for one that is none."""
    found = []
    for url in urls:
        try:
            found.append(server_address(url))
        except ValueError as error:
            raise ConfigurationError(f"--url {url!r} is not allowed: {error}") from error
    return found
