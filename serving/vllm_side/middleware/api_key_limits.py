"""How much may be asked with a key, counted over all servers of this machine that share the file of keys.

Each key has a small file. A request that runs holds a lock on one of its bytes (fcntl(2), record locks), so that the
kernel itself gives back the places of a server that died. The times of the last requests stand in the same file, as a
ring: with a limit of N a minute a request may come when the Nth before it is a minute old. One more byte is locked
while both are looked at, which makes the count exact. Standard library alone: this runs inside vLLM's environment.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import math
import os
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from api_keys import LARGEST_LIMIT

if TYPE_CHECKING:
    from pathlib import Path

    from api_keys import Key

MINUTE_S = 60.0
# Locks may lie past the end of a file: they never meet what is written in it.
COUNTING = 1 << 40
PLACES = COUNTING + 1
HEADER = struct.Struct("<QQ")  # how many times the ring holds, which of them is the oldest
TIME = struct.Struct("<d")  # of the machine's monotonic clock, which all processes share
NEVER = -math.inf
# A server that was stopped in the middle of counting must not stop the others for ever.
PATIENCE_S = 2.0


@dataclass(frozen=True)
class Refusal:
    """Why a request may not run now, and after how many seconds it may be worth asking again."""

    limit: str
    sentence: str
    retry_after: int


class Limits:
    """The limits of all keys. `folder` is where their files are; servers that share it count together."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._counts: dict[str, _Count] = {}

    async def enter(self, key: Key) -> Place | Refusal:
        """Return the place of a request that may run, to be left at its end, or why it may not."""
        if key.at_once is None and key.per_minute is None:
            return Place()
        count = self._counts.get(key.name)
        if count is None:
            # Never closed: a process that closes one descriptor of a file loses its locks on all of it.
            count = self._counts[key.name] = _Count(self._folder / hashlib.sha256(key.name.encode()).hexdigest()[:32])
        deadline = time.monotonic() + PATIENCE_S
        while not count.lock(COUNTING):
            if time.monotonic() > deadline:
                return Refusal("busy", f"The requests of the key {key.name!r} cannot be counted now.", 1)
            await asyncio.sleep(0.002)
        try:
            return _enter(count, key)
        finally:
            count.unlock(COUNTING)


def _enter(count: _Count, key: Key) -> Place | Refusal:
    place = Place()
    if key.at_once is not None:
        number = count.take(key.at_once)
        if number is None:
            return Refusal("at_once", f"The key {key.name!r} may have {key.at_once} requests at once, and has them.", 1)
        place = Place(count, number)
    if key.per_minute is not None:
        wait = count.wait(key.per_minute, time.monotonic())
        if wait > 0:
            place.leave()
            sentence = f"The key {key.name!r} may send {key.per_minute} requests a minute, and has sent them."
            return Refusal("per_minute", sentence, math.ceil(wait))
    return place


class Place:
    """What a running request holds."""

    def __init__(self, count: _Count | None = None, number: int = 0) -> None:
        self._count, self._number = count, number

    def leave(self) -> None:
        """Give it back; more than once does nothing more."""
        if self._count is not None:
            self._count.leave(self._number)
            self._count = None


class _Count:
    """The file of one key. A process never meets its own locks, so it remembers which places it holds."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._held: set[int] = set()

    def lock(self, byte: int) -> bool:
        """Lock a byte if no other process has it."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except OSError:
            return False
        return True

    def unlock(self, byte: int) -> None:
        """Give a byte back."""
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, byte)

    def take(self, places: int) -> int | None:
        """Return the first place that is free, None if none is."""
        for number in range(places):
            if number not in self._held and self.lock(PLACES + number):
                self._held.add(number)
                return number
        return None

    def leave(self, number: int) -> None:
        """Give a place back."""
        self._held.discard(number)
        self.unlock(PLACES + number)

    def wait(self, limit: int, now: float) -> float:
        """Count a request now and return 0, or return how many seconds it must wait."""
        head = os.pread(self._file, HEADER.size, 0)
        size, oldest = HEADER.unpack(head) if len(head) == HEADER.size else (0, 0)
        if size < limit or oldest >= size or size > LARGEST_LIMIT:
            size, oldest = self._grow(limit, size, now)
        (last,) = TIME.unpack(os.pread(self._file, TIME.size, self._at((oldest - limit) % size)))
        if 0 <= now - last < MINUTE_S:  # not one from before the machine's last start
            return float(MINUTE_S - (now - last))
        os.pwrite(self._file, TIME.pack(now), self._at(oldest))
        os.pwrite(self._file, HEADER.pack(size, (oldest + 1) % size), 0)
        return 0.0

    @staticmethod
    def _at(place: int) -> int:
        return HEADER.size + TIME.size * place

    def _grow(self, limit: int, size: int, now: float) -> tuple[int, int]:
        """Make the ring hold `limit` times, keep those that still count, and return its size and which is the oldest.

        It never shrinks: what a lower limit forgot would be missed by the next higher one.
        """
        data = os.pread(self._file, TIME.size * min(size, LARGEST_LIMIT), HEADER.size)
        times = (time for (time,) in TIME.iter_unpack(data[: len(data) // TIME.size * TIME.size]))
        kept = sorted(time for time in times if 0 <= now - time < MINUTE_S)[-limit:]
        ring = [*kept, *[NEVER] * (limit - len(kept))]
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, HEADER.pack(limit, len(kept) % limit) + b"".join(map(TIME.pack, ring)), 0)
        return limit, len(kept) % limit
