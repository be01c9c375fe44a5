"""Keys with names: a file with a line for each, read by the guard and written by `python -m serving key`.

    NAME sha256:64_HEX_DIGITS [at_once=N] [per_minute=N]

What follows a `#` is a comment. Only hashes stand there; a key is 256 random bits, so that a plain SHA-256 of it cannot
be guessed from. The guard imports this inside vLLM's environment: standard library alone.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger("vllm.api_keys")  # below vLLM's own, which has the handlers

NAME = re.compile(r"[\w.@-]{1,64}", re.ASCII)
HASH = re.compile(r"sha256:([0-9a-f]{64})")
LARGEST_LIMIT = 100_000
# A file that was written this short a time before it was read may be written again within the same tick of its clock.
CLOCK_TICK_S = 2.0


@dataclass(frozen=True)
class Key:
    """Whom a key belongs to, its hash, and how much may be asked with it: requests at once and per minute."""

    name: str
    digest: bytes
    at_once: int | None = None
    per_minute: int | None = None

    def line(self) -> str:
        """Return the key's line in the file."""
        limits = {"at_once": self.at_once, "per_minute": self.per_minute}
        words = [f"{name}={limit}" for name, limit in limits.items() if limit is not None]
        return " ".join((self.name, f"sha256:{self.digest.hex()}", *words))


def digest(key: bytes) -> bytes:
    """Return a key's hash: equal lengths, so that comparing takes the same time for every key."""
    return hashlib.sha256(key).digest()


def parse(text: str) -> tuple[tuple[Key, ...], tuple[str, ...]]:
    """Return the keys of a file, and a sentence for each line that is none; no line is ever quoted."""
    keys: dict[str, Key] = {}
    problems = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        key = _key(words)
        if key is None:
            problems.append(f"line {number} is not NAME sha256:HASH [at_once=N] [per_minute=N]")
        elif key.name in keys:
            problems.append(f"line {number} has the name of an earlier line, {key.name}")
        else:
            keys[key.name] = key
    return tuple(keys.values()), tuple(problems)


def _key(words: list[str]) -> Key | None:
    limits: dict[str, int] = {}
    for word in words[2:]:
        name, _, value = word.partition("=")
        if name not in ("at_once", "per_minute") or name in limits or not re.fullmatch("[0-9]{1,6}", value):
            return None
        limits[name] = int(value)
    found = HASH.fullmatch(words[1]) if len(words) > 1 else None
    if not found or not NAME.fullmatch(words[0]) or not all(0 < limit <= LARGEST_LIMIT for limit in limits.values()):
        return None
    return Key(words[0], bytes.fromhex(found[1]), **limits)


class KeyFile:
    """The keys of a file as it is now: looked at whenever it is asked, read again when it has changed.

    A file that cannot be read holds no key, and a line that makes no sense none either; both are logged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys: tuple[Key, ...] = ()
        self._stamp: tuple[int, ...] | None = None
        self._told: object = None

    def find(self, given: bytes) -> Key | None:
        """Return the key with this hash. Every key is compared, whichever fits."""
        found = None
        for key in self._now():
            if hmac.compare_digest(key.digest, given):
                found = key
        return found

    def _now(self) -> tuple[Key, ...]:
        try:
            stat = os.stat(self._path)  # noqa: PTH116 (on every request: as cheap as it gets)
            stamp = (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino)
            if stamp != self._stamp:
                self._keys, problems = parse(self._path.read_text("utf-8"))
                self._stamp = stamp if time.time() - stat.st_mtime > CLOCK_TICK_S else None
                self._tell(problems)
        except (OSError, ValueError) as error:
            self._keys, self._stamp = (), None
            self._tell((f"it cannot be read ({type(error).__name__})",))
        return self._keys

    def _tell(self, problems: tuple[str, ...]) -> None:
        if problems != self._told:
            self._told = problems
            for problem in problems:
                logger.warning("SERVE_API_KEYS_FILE: %s.", problem)
