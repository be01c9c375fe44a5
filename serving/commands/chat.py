"""`python -m serving chat`: the client's terminal, at the address and with the key of this machine's own server.

The client itself reads no SERVE_* variable, and a key that stands in `.env` as the server's is in no shell.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from serving.announcement import find_address
from serving.engine.command import reachable
from serving.settings import ServeSettings, is_loopback

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `python -m client` takes."""
    parser.add_argument("question", nargs="*", help="print one answer and leave; without a question: a chat")


def run(args: argparse.Namespace) -> int:
    """Become the client."""
    command = [sys.executable, "-m", "client", *args.question]
    os.execve(sys.executable, command, os.environ | client_variables(ServeSettings.load()))  # noqa: S606


def client_variables(settings: ServeSettings) -> dict[str, str]:
    """Return what the client must be told to ask this machine's server; nothing if LLM_BASE_URL names another.

    Another server never gets this one's key.
    """
    if settings.llm_base_url is not None and not _is_own(settings.llm_base_url, settings):
        return {}
    variables = {}
    if settings.llm_base_url is None or settings.tls_cert is not None:
        address = find_address(reachable(settings.host), settings.port, settings.tls_cert)
        variables["LLM_BASE_URL"] = address.base_url
        if address.ca_file is not None:
            variables["LLM_CA_FILE"] = str(address.ca_file)
    if settings.api_key is not None and not settings.own_key:
        variables["LLM_API_KEY"] = settings.api_key.get_secret_value()
    return variables


def _is_own(url: str, settings: ServeSettings) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return False  # the client refuses it, with its own sentence
    host = parts.hostname or ""
    return port == settings.port and (is_loopback(host) or host == settings.host)
