"""GPUs that are plugged in, whoever made them, as the kernel lists them: what NVML does not tell.

For a machine whose NVIDIA driver is missing, and for those with another maker's GPU, which the kit does not plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from serving.units import GIB

PCI_DEVICES = Path("/sys/bus/pci/devices")
WSL_DEVICE = Path("/dev/dxg")  # Windows' GPU, of any maker, inside WSL2

MAKERS = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel", "0x1da3": "Intel Gaudi"}
# Displays, 3D controllers, and "processing accelerators".
CLASSES = ("0x03", "0x12")
# A smaller AMD GPU is the one inside a processor, or older than anything that vLLM runs on.
AMD_LEAST_BYTES = 8 * GIB


@dataclass(frozen=True)
class PciGpu:
    """A GPU on the PCI bus. `memory_bytes` is None where its driver does not say."""

    maker: str
    name: str | None = None
    memory_bytes: int | None = None

    def __str__(self) -> str:
        size = f", {self.memory_bytes / GIB:.0f} GiB" if self.memory_bytes else ""
        return f"{self.maker} GPU ({self.name}{size})" if self.name else f"{self.maker} GPU{size.replace(',', ' of')}"


def plugged_in() -> tuple[PciGpu, ...]:
    """Return the GPUs that could serve a model, leaving out those inside a processor or a server's management chip."""
    try:
        folders = sorted(PCI_DEVICES.iterdir())
    except OSError:
        return ()
    return tuple(gpu for folder in folders if (gpu := _read(folder)) is not None)


def _read(folder: Path) -> PciGpu | None:
    maker = MAKERS.get(_line(folder / "vendor") or "")
    if maker is None or not (_line(folder / "class") or "").startswith(CLASSES):
        return None
    if maker == "Intel" and folder.name.split(":")[1:2] == ["00"]:
        return None  # Intel's own bus: the processor's GPU
    size = _line(folder / "mem_info_vram_total") or ""  # by AMD's driver
    memory = int(size) if size.isdecimal() else None
    if maker == "AMD" and (memory or 0) < AMD_LEAST_BYTES:
        return None
    name = _line(folder / "product_name")
    return PciGpu(maker, name if name and name.isprintable() else None, memory)


def _line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None
