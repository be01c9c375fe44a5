"""A systemd unit.

Sources: systemd.service(5), systemd.exec(5), systemd.syntax(7).
"""

from __future__ import annotations

import getpass
import re
import sys
from typing import TYPE_CHECKING

from serving.checks.settings import refuse_open_server
from serving.commands.export.deployment import MOUNT, NAME, ONLY_HERE, SECRETS, deployment
from serving.engine.process import EXIT_MARGIN_S
from serving.engine.program import ROOT, find_engine
from serving.errors import ConfigurationError
from serving.settings import ServeSettings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence


def systemd(args: argparse.Namespace) -> str:
    """Return a systemd unit for one machine."""
    user = args.user or getpass.getuser()
    if not re.fullmatch(r"[\w.-]+", user):
        raise ConfigurationError(f"--user {user!r} is not allowed: it must be a user's name.")
    return _fleet(user) if args.fleet else _engine(args.gpus, user)


def _engine(gpus: str | None, user: str) -> str:
    """Return a unit that runs vLLM itself, with the settings of now."""
    made = deployment(gpus, host=None, program=find_engine(ServeSettings.load().engine).resolve())
    refuse_open_server(made.settings)
    env = made.env | {name: value for name, value in made.command.env.items() if name in ONLY_HERE}
    secrets = [name for name in SECRETS if name in made.command.env or name == "HF_TOKEN"]
    return _unit(
        f"vLLM serving {made.command.served_name}",
        user,
        # Without the key's file a server that should ask for a key must not start; without a token it may.
        f"EnvironmentFile={'' if made.settings.api_key else '-'}{MOUNT}.env",
        *(f"Environment={_quoted(f'{name}={value}')}" for name, value in sorted(env.items())),
        f"ExecStart={_command(made.command.argv)}",
        f"TimeoutStopSec={made.settings.shutdown_timeout + EXIT_MARGIN_S:.0f}",
        secrets=secrets,
    )


def _fleet(user: str) -> str:
    """Return a unit that runs the fleet of this checkout, with the settings of its `.env` at each start and reload."""
    settings = ServeSettings.load()
    refuse_open_server(settings)
    command = (sys.executable, "-m", "serving")
    return _unit(
        "vLLM, several engines behind one address",
        user,
        f"EnvironmentFile=-{MOUNT}.env",
        f"ExecStart={_command((*command, 'fleet'))}",
        f"ExecReload={_command((*command, 'reload'))}",
        "# A reload lasts as long as the starts of all engines, one after the other.",
        "TimeoutStartSec=infinity",
        f"TimeoutStopSec={settings.shutdown_timeout + 3 * EXIT_MARGIN_S:.0f}",
        secrets=("SERVE_API_KEY", "HF_TOKEN"),
        then=f"After a change of .env: systemctl reload {NAME}",
    )


def _unit(about: str, user: str, *service: str, secrets: Sequence[str], then: str | None = None) -> str:
    lines = (
        f"# /etc/systemd/system/{NAME}.service",
        f"# Secrets go into /etc/{NAME}.env (mode 600), a line each: {', '.join(f'{name}=...' for name in secrets)}",
        f"# Then: systemctl daemon-reload && systemctl enable --now {NAME}",
        *([f"# {then}"] if then else []),
        "[Unit]",
        f"Description={about}",
        "Wants=network-online.target",
        "After=network-online.target",
        "StartLimitIntervalSec=3600",
        "StartLimitBurst=5",
        "",
        "[Service]",
        f"User={user}",
        f"WorkingDirectory={_quoted(str(ROOT))}",
        *service,
        "Restart=on-failure",
        "RestartSec=10",
        "# vLLM finishes what runs; then the whole group goes, so that nothing keeps the GPU.",
        "KillMode=mixed",
        "LimitMEMLOCK=infinity",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    )
    return "\n".join(lines) + "\n"


def _command(words: Sequence[str]) -> str:
    return " ".join(_quoted(word).replace("$", "$$") for word in words)


def _quoted(word: str) -> str:
    """Quote one word of a unit file, as systemd.syntax(7) says."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{word}"' if not word or any(letter in word for letter in " \"'\\;\t") else word
