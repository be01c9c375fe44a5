"""The addresses of machines that each run `make serve`, as `--url` gives them."""

from __future__ import annotations

from urllib.parse import urlsplit

from serving.errors import ConfigurationError


def checked(urls: list[str]) -> list[str]:
    """Return the addresses without a slash at the end. Raises ConfigurationError for one that is none."""
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or "@" in url:
            raise ConfigurationError(
                f"--url {url!r} is not allowed: it must be like http://10.0.0.5:8000, with no path."
            )
    return [url.rstrip("/") for url in urls]
