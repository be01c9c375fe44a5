"""The GPUs that are known by name: what the driver calls them, the memory that a program sees, what they compute.

Memory is what CUDA reports to a program, in GiB, which is less than the figure on the box: the driver keeps some, and
error correction takes its share. Where cards of one name differ, the smaller figure stands.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KnownGpu:
    """Describe a GPU model. `nominal_gb` is the figure on the box, `aliases` are further names, in lower case."""

    name: str
    gib: float
    capability: tuple[int, int]
    nominal_gb: int
    aliases: tuple[str, ...] = ()


KNOWN_GPUS = (
    KnownGpu("Tesla T4", 14.6, (7, 5), 16, ("t4",)),
    KnownGpu("Tesla V100-SXM2-16GB", 15.8, (7, 0), 16, ("v100 16gb", "tesla v100-pcie-16gb")),
    KnownGpu("Tesla V100-SXM2-32GB", 31.7, (7, 0), 32, ("v100 32gb", "tesla v100-pcie-32gb")),
    KnownGpu("NVIDIA L4", 22.0, (8, 9), 24),
    KnownGpu("NVIDIA A10", 22.0, (8, 6), 24),
    KnownGpu("NVIDIA A10G", 22.0, (8, 6), 24),
    KnownGpu("NVIDIA RTX A5000", 23.6, (8, 6), 24, ("a5000",)),
    KnownGpu("NVIDIA GeForce RTX 3090", 23.6, (8, 6), 24, ("rtx 3090", "3090")),
    KnownGpu("NVIDIA GeForce RTX 4090", 23.6, (8, 9), 24, ("rtx 4090", "4090")),
    KnownGpu("NVIDIA GeForce RTX 5090", 31.4, (12, 0), 32, ("rtx 5090", "5090")),
    KnownGpu(
        "NVIDIA A100-SXM4-40GB", 39.4, (8, 0), 40, ("nvidia a100-pcie-40gb", "nvidia a100 40gb pcie", "a100 40gb")
    ),
    KnownGpu("NVIDIA A40", 44.5, (8, 6), 48),
    KnownGpu("NVIDIA L40", 44.5, (8, 9), 48),
    KnownGpu("NVIDIA L40S", 44.5, (8, 9), 48),
    KnownGpu("NVIDIA RTX A6000", 47.5, (8, 6), 48, ("a6000",)),
    KnownGpu("NVIDIA RTX 6000 Ada Generation", 47.5, (8, 9), 48, ("rtx 6000 ada",)),
    KnownGpu(
        "NVIDIA A100-SXM4-80GB", 79.2, (8, 0), 80, ("nvidia a100 80gb pcie", "nvidia a100-pcie-80gb", "a100 80gb")
    ),
    KnownGpu("NVIDIA H100 80GB HBM3", 79.2, (9, 0), 80, ("h100", "h100 sxm", "h100 80gb", "nvidia h100 sxm5 80gb")),
    KnownGpu("NVIDIA H100 PCIe", 79.2, (9, 0), 80),
    KnownGpu("NVIDIA H100 NVL", 93.1, (9, 0), 94),
    KnownGpu(
        "NVIDIA RTX PRO 6000 Blackwell Server Edition",
        94.9,
        (12, 0),
        96,
        (
            "nvidia rtx pro 6000 blackwell workstation edition",
            "nvidia rtx pro 6000 blackwell max-q workstation edition",
            "rtx pro 6000 blackwell",
            "rtx pro 6000",
        ),
    ),
    KnownGpu("NVIDIA H200", 139.8, (9, 0), 141, ("h200 sxm",)),
    KnownGpu("NVIDIA H200 NVL", 139.8, (9, 0), 141),
    KnownGpu("NVIDIA B200", 178.3, (10, 0), 180),
)

# Names that leave open which card is meant, with what to say instead.
AMBIGUOUS = {
    "a100": "A100 40GB or A100 80GB",
    "a100 sxm": "A100 40GB or A100 80GB",
    "a100 pcie": "A100 40GB or A100 80GB",
    "v100": "V100 16GB or V100 32GB",
    "rtx 6000": "RTX A6000, RTX 6000 Ada or RTX PRO 6000",
    "6000": "RTX A6000, RTX 6000 Ada or RTX PRO 6000",
    "h100 94gb": "H100 NVL",
}


def normalise(name: str) -> str:
    """Return `name` in the form in which names are compared: lower case, no maker, single spaces."""
    words = name.lower().replace("®", "").replace("_", " ").replace("-", " ").split()
    return " ".join(word for word in words if word not in ("nvidia", "geforce", "tesla", "gpu"))


def find(name: str) -> KnownGpu | None:
    """Return the GPU that `name` means, None if it is not known."""
    wanted = normalise(name)
    for gpu in KNOWN_GPUS:
        if wanted in {normalise(gpu.name), *map(normalise, gpu.aliases)}:
            return gpu
    squeezed = wanted.replace(" ", "")
    for gpu in KNOWN_GPUS:
        if squeezed in {normalise(alias).replace(" ", "") for alias in (gpu.name, *gpu.aliases)}:
            return gpu
    return None
