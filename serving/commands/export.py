"""`python -m serving export`: the same model, name and flags, written down for engines that span more machines.

Nothing of these engines is rebuilt here. No secret is written: each format refers to where its engine keeps them.
Sources: vLLM's production-stack Helm chart (helm/values.schema.json), SkyPilot's task YAML, `vllm-router --help`,
systemd.service(5) and systemd.exec(5).
"""

from __future__ import annotations

import getpass
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import yaml

from serving.checks.machine import driver_problem
from serving.checks.settings import refuse_open_server
from serving.engine.command import GEMMA_TEMPLATE, TOOL_PARSER, TOOL_PARSER_FILES, EngineCommand
from serving.engine.process import EXIT_MARGIN_S
from serving.engine.program import ROOT, find_engine, pinned_version
from serving.errors import ConfigurationError, DoesNotFit, Refused
from serving.launch import find_hardware, for_others
from serving.settings import DEFAULT_PORT, STARTUP_S, ServeSettings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from serving.hardware.gpu import Hardware
    from serving.planning.plan import Plan

IMAGE = "vllm/vllm-openai"
ROUTER_PORT = 30000
NAME = "gemma-vllm-kit"
MOUNT = f"/etc/{NAME}"
# The environment variables that hold secrets; they are named in what is written, and never filled in.
SECRETS = ("VLLM_API_KEY", "HF_TOKEN")
# How SkyPilot calls a card (`sky gpus list`), by a part of its driver's name; the longer part first.
ACCELERATORS = (
    ("A100-SXM4-40GB", "A100"), ("A100", "A100-80GB"), ("H100", "H100"), ("H200", "H200"), ("B200", "B200"),
    ("L40S", "L40S"), ("L40", "L40"), ("L4", "L4"), ("A40", "A40"), ("A10G", "A10G"), ("A10", "A10"),
    ("RTX A6000", "RTXA6000"), ("RTX A5000", "RTXA5000"), ("RTX 6000 Ada", "RTX6000-Ada"),
    ("RTX PRO 6000", "RTXPRO6000"), ("RTX 3090", "RTX3090"), ("RTX 4090", "RTX4090"), ("RTX 5090", "RTX5090"),
)  # fmt: skip


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
        """Return the engine's environment without secrets, and without what only this checkout has."""
        return {name: value for name, value in self.command.env.items() if name not in (*SECRETS, "PYTHONPATH")}

    @property
    def gpus(self) -> int:
        """Return the GPUs of one replica."""
        return len(self.hardware.gpus)

    @property
    def tool_parser_files(self) -> tuple[Path, ...]:
        """Return the files that vLLM loads to read tool calls; none if the command line loads none."""
        return TOOL_PARSER_FILES if str(TOOL_PARSER) in self.command.argv else ()

    @property
    def templates(self) -> tuple[Path, ...]:
        """Return the chat template of this checkout that the command line names, if it names one."""
        return (GEMMA_TEMPLATE,) if str(GEMMA_TEMPLATE) in self.command.argv else ()

    def flags(self, *, without: Mapping[str, int] | None = None) -> list[str]:
        """Return vLLM's arguments after the model, `without` some flags, each with how many values it takes.

        The files of this checkout are named as they are mounted there.
        """
        words, kept = list(self.command.argv[3:]), []
        while words:
            word = words.pop(0)
            if without is not None and word in without:
                del words[: without[word]]
            else:
                kept.append(word)
        mounted = {str(path): f"{MOUNT}/{path.name}" for path in (*self.tool_parser_files, *self.templates)}
        return [mounted.get(word, word) for word in kept]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `export`; what they do not say comes from the SERVE_* settings."""
    parser.add_argument("format", choices=FORMATS, help="what to write")
    parser.add_argument("--output", metavar="FILE", type=Path, help="write to this file; default: standard output")
    parser.add_argument(
        "--gpus", help="GPUs of one machine, like '1x NVIDIA L40S'; default: SERVE_GPUS, else this machine's"
    )
    parser.add_argument("--replicas", type=int, default=1, metavar="N", help="machines, helm and skypilot (default 1)")
    parser.add_argument("--url", action="append", default=[], help="router: a machine's address; once for each")
    parser.add_argument("--user", help="systemd: the user to run as (default: you)")


def run(args: argparse.Namespace) -> int:
    """Write one format; return 0. Raises ConfigurationError, DoesNotFit or Refused."""
    if args.replicas < 1:
        raise ConfigurationError(
            f"--replicas {args.replicas} is not allowed: it must be a number of machines, 1 or more."
        )
    text = FORMATS[args.format](args)
    if args.output is None:
        sys.stdout.write(text)
    else:
        try:
            args.output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(f"--output {args.output} cannot be written: {error.strerror}.") from error
    return 0


def deployment(gpus: str | None, *, host: str | None, program: Path | None = None) -> Deployment:
    """Plan for the GPUs named (or set, or found here) and build the command; no GPU is needed for that."""
    settings = ServeSettings.load()
    if host is not None:
        settings = settings.model_copy(update={"host": host, "port": DEFAULT_PORT, "ui": False})
    hardware = find_hardware(settings, gpus)
    if problem := driver_problem(hardware):
        raise Refused(f"{problem} With --gpus it can be exported without.")
    if not hardware.gpus:
        raise ConfigurationError(
            "No GPU is here to plan for: say which the machines have, like --gpus '1x NVIDIA L40S'."
        )
    settled = for_others(settings, "exported")
    plan = settled.plan(hardware)
    if not plan.fits:
        raise DoesNotFit(plan.reason)
    return Deployment(settings, hardware, plan, settled.command(plan, program or Path("vllm")))


def helm(args: argparse.Namespace) -> str:
    """Return values for vLLM's production-stack chart."""
    made = deployment(args.gpus, host="0.0.0.0")  # noqa: S104 (inside a pod)
    # The chart itself writes the model, the address and the template's flag; the guard is a file of this checkout.
    flags = made.flags(without={"--host": 1, "--port": 1, "--chat-template": 1, "--middleware": 1})
    model: dict[str, Any] = {
        "name": "gemma",
        "repository": IMAGE,
        "tag": f"v{pinned_version('cuda')}",
        "modelURL": made.checkpoint,
        "replicaCount": args.replicas,
        "requestCPU": 4 * made.gpus,
        "requestMemory": "32Gi",
        "requestGPU": made.gpus,
        "pvcStorage": f"{made.plan.weights_gib * 2 + 10:.0f}Gi",
        "hf_token": {"secretName": NAME, "secretKey": "hf-token"},
        "env": [{"name": name, "value": value} for name, value in sorted(made.env.items())],
        # Without the first, the chart turns prefix caching off.
        "vllmConfig": {"enablePrefixCaching": True, "extraArgs": flags},
    }
    if made.gpus > 1:
        model["shmSize"] = "20Gi"
    if args.replicas > 1:
        model["pvcAccessMode"] = ["ReadWriteMany"]  # one claim holds the weights for all of them
    files = made.tool_parser_files
    if files:
        model["extraVolumes"] = [{"name": NAME, "configMap": {"name": NAME}}]
        model["extraVolumeMounts"] = [{"name": NAME, "mountPath": MOUNT, "readOnly": True}]
    if made.templates:
        model |= {"chatTemplate": GEMMA_TEMPLATE.name, "chatTemplateConfigMap": GEMMA_TEMPLATE.read_text("utf-8")}
    engine: dict[str, Any] = {"modelSpec": [model], "startupProbe": _probe(failures=int(STARTUP_S) // 10)}
    keys = ["--from-file=hf-token=FILE"]
    if made.settings.api_key is not None:
        engine["vllmApiKey"] = {"secretName": NAME, "secretKey": "api-key"}
        keys.append("--from-file=api-key=FILE")
    head = (
        "vLLM's production stack (https://github.com/vllm-project/production-stack). Secrets first, each from a file:",
        f"  kubectl create secret generic {NAME} {' '.join(keys)}",
        *(
            [f"  kubectl create configmap {NAME} {shlex.join(f'--from-file={file}' for file in files)}"]
            if files
            else []
        ),
        "  helm repo add vllm https://vllm-project.github.io/production-stack",
        "  helm install gemma vllm/vllm-stack -f THIS_FILE",
    )
    values = {"servingEngineSpec": engine, "routerSpec": {"routingLogic": "prefixaware"}}
    return _yaml(head, values)


def skypilot(args: argparse.Namespace) -> str:
    """Return a SkyPilot service."""
    made = deployment(args.gpus, host="0.0.0.0")  # noqa: S104 (SkyPilot's own ports decide who gets in)
    refuse_open_server(made.settings)  # the service's port is open to the internet
    words = [*made.command.argv[:3], *made.flags(without={"--middleware": 1})]
    secrets = [name for name in SECRETS if name in made.command.env or name == "HF_TOKEN"]
    task: dict[str, Any] = {
        "name": NAME,
        "service": {
            "readiness_probe": {"path": "/health", "initial_delay_seconds": int(STARTUP_S)},
            "replica_policy": {"min_replicas": args.replicas, "max_replicas": args.replicas * 2}
            | {"target_qps_per_replica": 1.0},
        },
        "resources": {
            "accelerators": {_accelerator(made.hardware): made.gpus},
            "ports": DEFAULT_PORT,
            "disk_size": int(made.plan.weights_gib * 2 + 60),
            "image_id": f"docker:{IMAGE}:v{pinned_version('cuda')}",
        },
        "envs": made.env,
        "secrets": dict.fromkeys(secrets),
        "run": shlex.join(words),
    }
    if files := (*made.tool_parser_files, *made.templates):
        task["file_mounts"] = {f"{MOUNT}/{file.name}": str(file) for file in files}
    head = (
        "SkyPilot (https://docs.skypilot.co). Secrets come from your environment:",
        f"  sky serve up THIS_FILE {' '.join(f'--secret {name}' for name in secrets)}",
    )
    return _yaml(head, task)


def router(args: argparse.Namespace) -> str:
    """Return a `vllm-router` command over machines that each run `make serve`."""
    if not args.url:
        raise ConfigurationError("--url is missing: give each machine's address, like --url http://10.0.0.5:8000.")
    for url in args.url:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
            raise ConfigurationError(
                f"--url {url!r} is not allowed: it must be like http://10.0.0.5:8000, with no path."
            )
    command = ["vllm-router", "--worker-urls", *(url.rstrip("/") for url in args.url)]
    # cache_aware sends what begins alike to the same machine, whose prefix cache then holds it.
    command += ["--policy", "cache_aware", "--host", "127.0.0.1", "--port", str(ROUTER_PORT)]
    command += ["--worker-startup-timeout-secs", f"{STARTUP_S:.0f}", "--request-timeout-secs", "1800"]
    lines = (
        "#!/bin/sh",
        "# vLLM's router (pip install vllm-router) over machines that serve the same model under the same name.",
        "# It passes the caller's key on to them and checks none itself: keep it on loopback or behind a proxy.",
        f"# Then: LLM_BASE_URL=http://127.0.0.1:{ROUTER_PORT}/v1",
        f"exec {shlex.join(command)}",
    )
    return "\n".join(lines) + "\n"


def systemd(args: argparse.Namespace) -> str:
    """Return a systemd unit for one machine."""
    user = args.user or getpass.getuser()
    if not re.fullmatch(r"[\w.-]+", user):
        raise ConfigurationError(f"--user {user!r} is not allowed: it must be a user's name.")
    made = deployment(args.gpus, host=None, program=find_engine(ServeSettings.load().engine).resolve())
    refuse_open_server(made.settings)
    env = dict(made.env)
    if "PYTHONPATH" in made.command.env:
        env["PYTHONPATH"] = made.command.env["PYTHONPATH"]
    secrets = [name for name in SECRETS if name in made.command.env or name == "HF_TOKEN"]
    lines = (
        f"# /etc/systemd/system/{NAME}.service",
        f"# Secrets go into /etc/{NAME}.env (mode 600), a line each: {', '.join(f'{name}=...' for name in secrets)}",
        f"# Then: systemctl daemon-reload && systemctl enable --now {NAME}",
        "[Unit]",
        f"Description=vLLM serving {made.command.served_name}",
        "Wants=network-online.target",
        "After=network-online.target",
        "StartLimitIntervalSec=3600",
        "StartLimitBurst=5",
        "",
        "[Service]",
        f"User={user}",
        f"WorkingDirectory={_quoted(str(ROOT))}",
        # Without the key's file a server that should ask for a key must not start; without a token it may.
        f"EnvironmentFile={'' if made.settings.api_key else '-'}{MOUNT}.env",
        *(f"Environment={_quoted(f'{name}={value}')}" for name, value in sorted(env.items())),
        "ExecStart=" + " ".join(_quoted(word).replace("$", "$$") for word in made.command.argv),
        "Restart=on-failure",
        "RestartSec=10",
        "# vLLM finishes what runs; then the whole group goes, so that nothing keeps the GPU.",
        "KillMode=mixed",
        f"TimeoutStopSec={made.settings.shutdown_timeout + EXIT_MARGIN_S:.0f}",
        "LimitMEMLOCK=infinity",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    )
    return "\n".join(lines) + "\n"


FORMATS = {"helm": helm, "skypilot": skypilot, "router": router, "systemd": systemd}


def _accelerator(hardware: Hardware) -> str:
    name = hardware.gpus[0].name
    found = next((sky for part, sky in ACCELERATORS if part.lower() in name.lower()), None)
    if found is None or len(hardware.counts()) > 1:
        known = ", ".join(dict.fromkeys(sky for _, sky in ACCELERATORS))
        raise ConfigurationError(f"--gpus {str(hardware)!r} is not allowed here: SkyPilot takes one kind of {known}.")
    return found


def _probe(failures: int) -> dict[str, Any]:
    return {
        "initialDelaySeconds": 15,
        "periodSeconds": 10,
        "failureThreshold": failures,
        "httpGet": {"path": "/health", "port": DEFAULT_PORT},
    }


def _yaml(head: tuple[str, ...], body: dict[str, Any]) -> str:
    comment = "".join(f"# {line}\n" for line in head)
    return comment + yaml.safe_dump(body, sort_keys=False, allow_unicode=True, width=1000)


def _quoted(word: str) -> str:
    """Quote one word of a unit file, as systemd.syntax(7) says."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{word}"' if not word or any(letter in word for letter in " \"'\\;\t") else word
