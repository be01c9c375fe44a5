"""The download of a model's weights, told while vLLM makes it: vLLM itself shows nothing of it."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serving.model.hub_cache import arrived_bytes
from serving.units import GB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

INTERVAL_S = 2.0


@dataclass(frozen=True)
class Download:
    """What is to be downloaded: a model `owner/name`, how many bytes its weights have, and into which cache."""

    name: str
    total_bytes: int
    cache: Path

    def present_bytes(self) -> int:
        """Return how many bytes have arrived, those of unfinished files included."""
        return arrived_bytes(self.name, self.cache)


@contextmanager
def report_download(download: Download | None, tell: Callable[[str], None]) -> Iterator[None]:
    """Tell how far `download` is, whenever more has arrived, until the block is left."""
    if download is None:
        yield
        return
    done = threading.Event()

    def follow(seen: int) -> None:
        while not done.wait(INTERVAL_S):
            present = download.present_bytes()
            if present > seen:
                tell(f"downloaded {present / GB:.1f} of {download.total_bytes / GB:.1f} GB")
            seen = present

    thread = threading.Thread(target=follow, args=(download.present_bytes(),), name="download", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
