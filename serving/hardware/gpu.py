"""What the engine may use: the GPUs of a machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Process:
    """A process that holds GPU memory. `used_bytes` is None where the driver does not say."""

    pid: int
    name: str | None
    used_bytes: int | None


@dataclass(frozen=True)
class Gpu:
    """One GPU, or one MIG slice. `id` is what CUDA_VISIBLE_DEVICES calls it; None capability: not known.

    `unified`: its memory is the host's, which must be left some.
    """

    name: str
    total_bytes: int
    free_bytes: int
    compute_capability: tuple[int, int] | None
    mig: bool = False
    processes: tuple[Process, ...] = ()
    id: str | None = None
    unified: bool = False


@dataclass(frozen=True)
class Hardware:
    """A machine. `problem` is the sentence that says why GPUs that are there cannot be used; nothing is served then.

    `notes` are sentences on what is there and not used. `restricted`: there is more than `gpus`, so vLLM must be told
    which to open. `host_bytes` is the memory that the CPU engine could take, None where it is not known.
    """

    gpus: tuple[Gpu, ...]
    driver: str | None = None
    cuda: str | None = None
    source: Literal["nvml", "given", "none"] = "none"
    problem: str | None = None
    host_bytes: int | None = None
    notes: tuple[str, ...] = ()
    restricted: bool = False

    def __str__(self) -> str:
        """Return the GPUs as a person would say them: `2x NVIDIA L40S, 1x Tesla T4`."""
        return ", ".join(f"{count}x {name}" for name, count in self.counts().items()) or "no GPU"

    def counts(self) -> dict[str, int]:
        """Return how many GPUs there are of each name."""
        counts: dict[str, int] = {}
        for gpu in self.gpus:
            counts[gpu.name] = counts.get(gpu.name, 0) + 1
        return counts
