"""What is said once vLLM answers: where, what it serves, and a command that asks it a question."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from client.settings import DEFAULT_BASE_URL

if TYPE_CHECKING:
    from serving.engine.probe import Probe
    from serving.launch import Launch

QUESTION = "What is the capital of France?"


def announcement(launch: Launch, context: int | None, took: float) -> str:
    """Return the lines that say that vLLM is ready, `took` seconds after the start, for `context` tokens a request."""
    return "\n".join(
        (
            f"Ready after {took:.1f} s: {launch.command.base_url}",
            f"  model    {launch.command.served_name}" + (f" ({launch.about})" if launch.about else ""),
            f"  context  {context:,} tokens per request" if context else "  context  not reported",
            f"  ask      {question_command(launch)}",
        )
    )


def served_context(probe: Probe, key: str | None) -> int | None:
    """Ask the server for the context length that it settled on, in tokens; None if it does not say."""
    answer = probe.get("/v1/models", key=key, timeout=10)
    try:
        length = json.loads(answer.body)["data"][0]["max_model_len"] if answer is not None else None
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return length if isinstance(length, int) else None


def question_command(launch: Launch) -> str:
    """Return a shell command, to be run where `make serve` runs, that asks the server a question."""
    settings, command = launch.settings, launch.command
    words = []
    if (settings.llm_base_url or DEFAULT_BASE_URL).replace("localhost", "127.0.0.1").rstrip("/") != command.base_url:
        words.append(f"LLM_BASE_URL={shlex.quote(command.base_url)}")
    if settings.api_key and not settings.llm_api_key:
        words.append('LLM_API_KEY="$SERVE_API_KEY"')
    if settings.llm_model != command.served_name:
        words.append(f"LLM_MODEL={shlex.quote(command.served_name)}")
    python = Path(sys.executable)
    here = Path.cwd()
    shown = str(python.relative_to(here)) if python.is_relative_to(here) else str(python)
    return " ".join((*words, shlex.quote(shown), "-m client", shlex.quote(QUESTION)))
