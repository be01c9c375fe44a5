"""What every format writes down: the model, vLLM's flags and environment, without a secret."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from serving.checks.machine import driver_problem
from serving.commands.say import say
from serving.engine.command import (
    CHANGES,
    GEMMA_TEMPLATE,
    TOOL_PARSER,
    TOOL_PARSER_FILES,
    EngineCommand,
)
from serving.errors import ConfigurationError, DoesNotFit, Refused
from serving.launch import find_hardware, for_others
from serving.settings import DEFAULT_PORT, LOCAL_VARIABLES, ServeSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from serving.hardware.gpu import Hardware
    from serving.planning.plan import Plan

IMAGE = "vllm/vllm-openai"
NAME = "gemma-vllm-kit"
MOUNT = f"/etc/{NAME}"
# The environment variables that hold secrets; they are named in what is written, and never filled in.
SECRETS = ("VLLM_API_KEY", "HF_TOKEN")
# What points to files of this machine: the guard, and what it reads.
ONLY_HERE = ("PYTHONPATH", "SERVE_API_KEYS_FILE", "SERVE_API_KEYS_STATE", *LOCAL_VARIABLES)


@dataclass(frozen=True)
class Deployment:
    """What every format writes down."""

    settings: ServeSettings
    hardware: Hardware
    plan: Plan
    command: EngineCommand

    @property
    def checkpoint(self) -> str:
        """Return the model that vLLM loads."""
        return str(self.plan.checkpoint)

    @property
    def env(self) -> dict[str, str]:
        """Return the engine's environment without secrets; the code of this checkout is found where it is mounted."""
        env = {name: value for name, value in self.command.env.items() if name not in (*SECRETS, *ONLY_HERE)}
        return env | {"PYTHONPATH": MOUNT}

    @property
    def gpus(self) -> int:
        """Return the GPUs of one replica."""
        return len(self.hardware.gpus)

    @property
    def code(self) -> tuple[Path, ...]:
        """Return the files of this checkout that vLLM loads there: what reads tool calls, and what changes vLLM."""
        parser = TOOL_PARSER_FILES if str(TOOL_PARSER) in self.command.argv else ()
        return (*parser, *(file for name, file in CHANGES.items() if name in self.command.argv))

    @property
    def templates(self) -> tuple[Path, ...]:
        """Return the chat template of this checkout that the command line names, if it names one."""
        return (GEMMA_TEMPLATE,) if str(GEMMA_TEMPLATE) in self.command.argv else ()

    def flags(self, *, without: Mapping[str, int] | None = None) -> list[str]:
        """Return vLLM's arguments after the model, `without` some flags, each with how many values it takes.

        The files of this checkout are named as they are mounted there. What changes vLLM stays, whatever becomes
        of the middleware.
        """
        words, kept = list(self.command.argv[3:]), []
        while words:
            word = words.pop(0)
            if without is not None and word in without and words[0] not in CHANGES:
                del words[: without[word]]
            else:
                kept.append(word)
        mounted = {str(path): f"{MOUNT}/{path.name}" for path in (*self.code, *self.templates)}
        return [mounted.get(word, word) for word in kept]


def deployment(gpus: str | None, *, host: str | None, program: Path | None = None) -> Deployment:
    """Plan for the GPUs named (or set, or found here) and build the command; no GPU is needed for that."""
    settings = ServeSettings.load()
    if host is not None:
        here = {"tls_cert": None, "tls_key": None, "access_log": None}  # files of this machine
        settings = settings.model_copy(update={"host": host, "port": DEFAULT_PORT, "ui": False, **here})
    hardware = find_hardware(settings, gpus)
    if problem := driver_problem(hardware):
        raise Refused(f"{problem} With --gpus it can be exported without.")
    if not hardware.gpus:
        raise ConfigurationError(
            "No GPU is here to plan for: say which the machines have, like --gpus '1x NVIDIA L40S'."
        )
    settled = for_others(settings, "exported", say)
    plan = settled.plan(hardware)
    if not plan.fits:
        raise DoesNotFit(plan.reason)
    return Deployment(settings, hardware, plan, settled.command(plan, program or Path("vllm")))


def as_yaml(head: tuple[str, ...], body: dict[str, Any]) -> str:
    """Return a body in YAML under a comment of lines."""
    comment = "".join(f"# {line}\n" for line in head)
    return comment + yaml.safe_dump(body, sort_keys=False, allow_unicode=True, width=1000)
