"""Which of an endpoint's variables are secret, and what keeps those that are off every screen.

What known keys, and what looks like one, are replaced by is the client's: there is one mask.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from client._wire.masking import MASK, mask

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["MASK", "Redactor", "looks_secret", "secret_values", "shown"]

_SECRET_NAME = re.compile(
    r"(^|_)(API_?KEY|KEY|TOKEN|SECRET|PASSW(OR)?D|PASS|PWD|CREDENTIALS?|AUTH|DSN|COOKIE|PRIVATE)(_|$)", re.IGNORECASE
)
# A token by its shape, a URL with a password, or an argument such as `--api-key value`.
_SECRET_VALUE = re.compile(
    r"\b(hf|rpa|rps|sk|ghp|gho|github_pat|xox[abp])[-_]\w{6,}|://[^/\s:@]+:[^/\s@]+@|-(key|token|secret|password)\b",
    re.IGNORECASE,
)
_REFERENCE = re.compile(r"^\{\{\s*RUNPOD_SECRET_[\w-]+\s*\}\}$")
_NOT_SECRET = frozenset({"EMPTY"})
_OPEN_PREFIXES = ("SERVE_", "WORKER_", "RUNPOD_INIT_", "PORT", "HEALTH_CHECK_PATH", "HF_", "VLLM_", "NCCL_")


def looks_secret(name: str, value: str) -> bool:
    """Whether an environment variable must not be shown. A reference to a RunPod secret may."""
    if _REFERENCE.match(value):
        return False
    return bool(_SECRET_NAME.search(name) or _SECRET_VALUE.search(value))


def shown(name: str, value: str) -> str:
    """Return an environment variable's value as it may be shown: masked unless it is plainly one of our settings."""
    if _REFERENCE.match(value):
        return value
    return MASK if looks_secret(name, value) or not name.startswith(_OPEN_PREFIXES) else value


def secret_values(env: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values in `env` that look secret."""
    return tuple(value for name, value in env.items() if looks_secret(name, value))


class Redactor:
    """What strikes known secrets out of text. Learns more of them as they are met (an endpoint's environment, say)."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: set[str] = set()
        self.learn(secrets)

    def learn(self, secrets: Iterable[str]) -> None:
        """Add values to strike out. Very short ones are left: they would strike out half of any text."""
        self._secrets.update(value for value in secrets if len(value) >= 4 and value not in _NOT_SECRET)

    def __call__(self, text: str) -> str:
        """Return `text` without any known secret, and without what looks like one."""
        return mask(text, self._secrets)

    def __repr__(self) -> str:
        return f"Redactor({len(self._secrets)} secrets)"
