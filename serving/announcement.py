"""What is said once vLLM answers: where, what it serves, and a command that asks it a question."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from client.settings import DEFAULT_BASE_URL
from serving.engine.certificate import shown_certificate
from serving.engine.command import reachable

if TYPE_CHECKING:
    from serving.engine.probe import Probe
    from serving.launch import Launch

QUESTION = "What is the capital of France?"


def announcement(launch: Launch, probe: Probe, key: str | None) -> str:
    """Ask a vLLM that answers what there is to say of it; return that: where it is, and lines on what it serves."""
    address = find_address(reachable(launch.command.host), launch.command.port, launch.command.tls_cert)
    context = served_context(probe, key)
    lines = [
        address.base_url,
        f"  model    {launch.command.served_name}" + (f" ({launch.about})" if launch.about else ""),
        f"  context  {context:,} tokens per request" if context else "  context  not reported",
    ]
    if address.problem:
        lines.append(f"  HTTPS    nobody will trust the certificate: {address.problem}")
    return "\n".join((*lines, f"  ask      {question_command(launch, address)}"))


@dataclass(frozen=True)
class Address:
    """Where the server is reached, whom a caller must trust to believe its certificate, and what is wrong with it."""

    base_url: str
    ca_file: Path | None = None
    problem: str | None = None


def find_address(host: str, port: int, tls_cert: Path | None) -> Address:
    """Return where a server that answers at `host` is reached: over HTTPS by a name that its certificate bears."""
    if tls_cert is None:
        return Address(f"http://{host}:{port}/v1")
    found = shown_certificate(host.strip("[]"), port, tls_cert)
    name = f"[{found.name}]" if ":" in found.name else found.name
    return Address(f"https://{name}:{port}/v1", None if found.trusted else tls_cert.absolute(), found.problem)


def served_context(probe: Probe, key: str | None) -> int | None:
    """Ask the server for the context length that it settled on, in tokens; None if it does not say."""
    answer = probe.get("/v1/models", key=key, timeout=10)
    try:
        length = json.loads(answer.body)["data"][0]["max_model_len"] if answer is not None else None
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return length if isinstance(length, int) else None


def question_command(launch: Launch, address: Address) -> str:
    """Return a shell command, to be run where `make serve` runs, that asks the server a question.

    A key that only the server's variables hold is for `python -m serving chat` to find: it may stand in `.env` alone,
    and is not printed.
    """
    settings, command = launch.settings, launch.command
    words, module = [], "client"
    if (settings.llm_base_url or DEFAULT_BASE_URL).replace("localhost", "127.0.0.1").rstrip("/") != address.base_url:
        words.append(f"LLM_BASE_URL={shlex.quote(address.base_url)}")
    if address.ca_file is not None:
        words.append(f"LLM_CA_FILE={shlex.quote(str(address.ca_file))}")
    if settings.own_key:
        words.append("LLM_API_KEY=YOUR_KEY")  # the file holds no key that could be shown
    elif settings.api_key and settings.api_key != settings.llm_api_key:
        module = "serving chat"
    if settings.llm_model != command.served_name:
        words.append(f"LLM_MODEL={shlex.quote(command.served_name)}")
    python = Path(sys.executable)
    here = Path.cwd()
    shown = str(python.relative_to(here)) if python.is_relative_to(here) else str(python)
    return " ".join((*words, shlex.quote(shown), f"-m {module}", shlex.quote(QUESTION)))
