"""The GPUs that are known by name: what the driver calls them, the memory that a program sees, what they compute.

Memory is what CUDA reports to a program, in GiB, which is less than the figure on the box: the driver keeps some, and
error correction takes its share. Where cards of one name differ, the smaller figure stands. `source` says where a
figure comes from:

    torch  "GPU 0 has a total capacity of ... GiB", in PyTorch's own reports
    smi N  nvidia-smi's total of N MiB, less what the driver keeps of it (0.4 to 1 GiB, as on cards that have both)
    like X the same chip and memory as X
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class KnownGpu:
    """A GPU model. `nominal_gb` is the figure on the box, `aliases` are further names, in lower case.

    `unified`: it shares the host's memory, and NVML does not say how much that is.
    """

    name: str
    gib: float
    capability: tuple[int, int]
    nominal_gb: int
    aliases: tuple[str, ...] = ()
    source: str = "torch"
    unified: bool = False


KNOWN_GPUS = (
    # Compute capability 6 and 7: no bfloat16, the first four too old for vLLM's engine.
    KnownGpu("Tesla P100-PCIE-16GB", 15.8, (6, 0), 16, ("p100", "tesla p100-sxm2-16gb"), "smi 16276"),
    KnownGpu("Tesla P40", 22.3, (6, 1), 24, (), "smi 22919"),
    KnownGpu("Tesla V100-SXM2-16GB", 15.8, (7, 0), 16, ("v100 16gb", "tesla v100-pcie-16gb")),
    KnownGpu("Tesla V100-SXM2-32GB", 31.7, (7, 0), 32, ("v100 32gb", "tesla v100-pcie-32gb")),
    KnownGpu("Tesla T4", 14.6, (7, 5), 16, ("t4",)),
    KnownGpu("NVIDIA GeForce RTX 2080 Ti", 10.7, (7, 5), 11, ("2080 ti",)),
    KnownGpu("NVIDIA TITAN RTX", 23.5, (7, 5), 24, ("titan rtx",), "smi 24576"),
    KnownGpu("Quadro RTX 6000", 23.5, (7, 5), 24, (), "smi 24576"),
    KnownGpu("Quadro RTX 8000", 47.2, (7, 5), 48, (), "smi 48601"),
    # Ampere
    KnownGpu("NVIDIA A30", 23.5, (8, 0), 24, (), "smi 24576"),
    KnownGpu(
        "NVIDIA A100-SXM4-40GB", 39.4, (8, 0), 40, ("nvidia a100-pcie-40gb", "nvidia a100 40gb pcie", "a100 40gb")
    ),
    KnownGpu(
        "NVIDIA A100-SXM4-80GB", 79.2, (8, 0), 80, ("nvidia a100 80gb pcie", "nvidia a100-pcie-80gb", "a100 80gb")
    ),
    KnownGpu("NVIDIA A800-SXM4-80GB", 79.2, (8, 0), 80, ("nvidia a800 80gb pcie", "a800"), "like A100"),
    KnownGpu("NVIDIA GeForce RTX 3060", 11.6, (8, 6), 12, ("3060",)),
    KnownGpu("NVIDIA GeForce RTX 3080", 9.6, (8, 6), 10, ("3080",)),
    KnownGpu("NVIDIA GeForce RTX 3080 Ti", 11.6, (8, 6), 12, ("3080 ti",)),
    KnownGpu("NVIDIA GeForce RTX 3090", 23.6, (8, 6), 24, ("rtx 3090", "3090")),
    KnownGpu("NVIDIA GeForce RTX 3090 Ti", 23.6, (8, 6), 24, ("3090 ti",)),
    KnownGpu("NVIDIA RTX A4000", 15.6, (8, 6), 16, ("a4000",)),
    KnownGpu("NVIDIA RTX A4500", 19.6, (8, 6), 20, ("a4500",)),
    KnownGpu("NVIDIA RTX A5000", 23.6, (8, 6), 24, ("a5000",)),
    KnownGpu("NVIDIA RTX A5500", 23.6, (8, 6), 24, ("a5500",), "like RTX A5000"),
    KnownGpu("NVIDIA RTX A6000", 47.5, (8, 6), 48, ("a6000",)),
    KnownGpu("NVIDIA A10", 22.0, (8, 6), 24),
    KnownGpu("NVIDIA A10G", 22.0, (8, 6), 24),
    KnownGpu("NVIDIA A40", 44.5, (8, 6), 48),
    # Ada
    KnownGpu("NVIDIA L4", 22.0, (8, 9), 24),
    KnownGpu("NVIDIA L20", 44.4, (8, 9), 48),
    KnownGpu("NVIDIA L40", 44.5, (8, 9), 48),
    KnownGpu("NVIDIA L40S", 44.5, (8, 9), 48),
    KnownGpu("NVIDIA GeForce RTX 4060 Ti", 15.6, (8, 9), 16, ("4060 ti 16gb",)),
    KnownGpu("NVIDIA GeForce RTX 4070", 11.6, (8, 9), 12, ("4070",)),
    KnownGpu("NVIDIA GeForce RTX 4070 Ti", 11.6, (8, 9), 12, ("4070 ti",)),
    KnownGpu("NVIDIA GeForce RTX 4070 Ti SUPER", 15.6, (8, 9), 16, ("4070 ti super",)),
    KnownGpu("NVIDIA GeForce RTX 4080", 15.6, (8, 9), 16, ("4080",)),
    KnownGpu("NVIDIA GeForce RTX 4080 SUPER", 15.6, (8, 9), 16, ("4080 super",)),
    KnownGpu("NVIDIA GeForce RTX 4090", 23.6, (8, 9), 24, ("rtx 4090", "4090")),
    KnownGpu("NVIDIA GeForce RTX 4090 D", 23.6, (8, 9), 24, ("rtx 4090d", "4090d"), "like RTX 4090"),
    KnownGpu(
        "NVIDIA RTX 4000 Ada Generation",
        19.5,
        (8, 9),
        20,
        ("rtx 4000 ada", "rtx 4000 sff ada", "nvidia rtx 4000 sff ada generation"),
        "smi 20475",
    ),
    KnownGpu("NVIDIA RTX 4500 Ada Generation", 23.5, (8, 9), 24, ("rtx 4500 ada",), "smi 24570"),
    KnownGpu("NVIDIA RTX 5000 Ada Generation", 31.4, (8, 9), 32, ("rtx 5000 ada",), "smi 32760"),
    KnownGpu("NVIDIA RTX 6000 Ada Generation", 47.5, (8, 9), 48, ("rtx 6000 ada",)),
    # Hopper. The name of a GH200 ends in its CPU's memory: the GPU's own part is 96 or 144 GB.
    KnownGpu("NVIDIA H100 80GB HBM3", 79.2, (9, 0), 80, ("h100", "h100 sxm", "h100 80gb", "nvidia h100 sxm5 80gb")),
    KnownGpu("NVIDIA H100 PCIe", 79.2, (9, 0), 80),
    KnownGpu("NVIDIA H100 NVL", 93.1, (9, 0), 94),
    KnownGpu("NVIDIA H800", 79.2, (9, 0), 80, ("nvidia h800 pcie", "h800 80gb"), "like H100"),
    KnownGpu("NVIDIA H20", 94.5, (9, 0), 96, ("h20 96gb",), "smi 97871"),
    KnownGpu("NVIDIA H20-3e", 139.8, (9, 0), 141, ("h20 141gb",), "like H200"),
    KnownGpu("NVIDIA H200", 139.8, (9, 0), 141, ("h200 sxm",)),
    KnownGpu("NVIDIA H200 NVL", 139.8, (9, 0), 141),
    KnownGpu("NVIDIA GH200 480GB", 94.5, (9, 0), 96, ("gh200", "nvidia gh200 120gb", "gh200 96gb"), "smi 97871"),
    KnownGpu("NVIDIA GH200 144G HBM3e", 139.8, (9, 0), 144, ("gh200 144gb",), "like H200"),
    # Blackwell
    KnownGpu("NVIDIA GeForce RTX 5060 Ti", 15.4, (12, 0), 16, ("5060 ti 16gb",), "smi 16311"),
    KnownGpu("NVIDIA GeForce RTX 5070", 11.5, (12, 0), 12, ("5070",), "smi 12227"),
    KnownGpu("NVIDIA GeForce RTX 5070 Ti", 15.4, (12, 0), 16, ("5070 ti",)),
    KnownGpu("NVIDIA GeForce RTX 5080", 15.4, (12, 0), 16, ("5080",)),
    KnownGpu("NVIDIA GeForce RTX 5090", 31.4, (12, 0), 32, ("rtx 5090", "5090")),
    KnownGpu("NVIDIA GeForce RTX 5090 D", 31.4, (12, 0), 32, ("rtx 5090d", "5090d"), "like RTX 5090"),
    KnownGpu("NVIDIA GeForce RTX 5090 D v2", 23.4, (12, 0), 24, ("rtx 5090d v2",), "like RTX PRO 4000"),
    KnownGpu("NVIDIA RTX PRO 4000 Blackwell", 23.4, (12, 0), 24, ("rtx pro 4000",), "smi 24467"),
    KnownGpu("NVIDIA RTX PRO 4500 Blackwell", 31.3, (12, 0), 32, ("rtx pro 4500",), "smi 32623"),
    KnownGpu("NVIDIA RTX PRO 5000 Blackwell", 47.3, (12, 0), 48, ("rtx pro 5000", "rtx pro 5000 48gb"), "smi 48935"),
    KnownGpu("NVIDIA RTX PRO 5000 72GB Blackwell", 71.0, (12, 0), 72, ("rtx pro 5000 72gb",), "smi 73415"),
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
    KnownGpu("NVIDIA B200", 178.3, (10, 0), 180),
    KnownGpu("NVIDIA GB200", 184.0, (10, 0), 186, ("gb200 nvl72",), "smi 189471"),
    KnownGpu("NVIDIA B300 SXM6 AC", 267.5, (10, 3), 288, ("b300",), "smi 275040"),
    KnownGpu("NVIDIA GB300", 276.0, (10, 3), 288, ("gb300 nvl72",), "smi 284208"),
    # Their memory is the host's (MemTotal in /proc/meminfo, less on hosts that keep some for themselves).
    KnownGpu("NVIDIA GB10", 119.6, (12, 1), 128, ("dgx spark", "gb10 dgx spark"), "torch", unified=True),
    KnownGpu("NVIDIA Thor", 122.8, (11, 0), 128, ("jetson thor", "jetson agx thor", "agx thor"), "torch", unified=True),
    KnownGpu("Orin", 61.3, (8, 7), 64, ("jetson agx orin 64gb", "nvidia orin", "agx orin"), "torch", unified=True),
)

# Names that leave open which card is meant, with what to say instead.
AMBIGUOUS = {
    "a100": "A100 40GB or A100 80GB",
    "a100 sxm": "A100 40GB or A100 80GB",
    "a100 pcie": "A100 40GB or A100 80GB",
    "v100": "V100 16GB or V100 32GB",
    "rtx 6000": "Quadro RTX 6000, RTX A6000, RTX 6000 Ada or RTX PRO 6000",
    "6000": "RTX A6000, RTX 6000 Ada or RTX PRO 6000",
    "rtx 5000": "RTX 5000 Ada or RTX PRO 5000",
    "rtx 4000": "RTX 4000 Ada, RTX A4000 or RTX PRO 4000",
    "rtx 4500": "RTX 4500 Ada, RTX A4500 or RTX PRO 4500",
    "h100 94gb": "H100 NVL",
}


# Words of other makers' names, to tell "not NVIDIA's" from "not known".
_OTHER_MAKERS = re.compile(
    r"\b(amd|radeon|instinct|mi\d{2,3}[xa]?|rx ?\d{3,4}( xtx?)?|w7\d00|vega|strix"
    r"|intel|arc|[ab](380|580|770)|gaudi ?\d?|ponte vecchio|data center gpu (max|flex)"
    r"|apple|m[1-5] (max|ultra|pro)|tpu|ascend|trainium|inferentia)\b",
    re.IGNORECASE,
)


def is_other_makers(name: str) -> bool:
    """Whether `name` is that of a GPU or accelerator of another maker than NVIDIA."""
    return "nvidia" not in name.lower() and bool(_OTHER_MAKERS.search(name))


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
