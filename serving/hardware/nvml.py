"""The machine's GPUs as the NVIDIA driver reports them, through NVML.

Every question to NVML may fail by itself (a GPU that fell off the bus, one that a container was not given, a call that
a chip does not know), and none of that is an exception to our caller.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.hardware import host, pci
from serving.hardware.catalog import find
from serving.hardware.gpu import Gpu, Hardware, Process
from serving.hardware.visible import VARIABLE, Device, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_GPUS = 64  # on one machine; more is nonsense
KERNEL_MODULE = Path("/proc/driver/nvidia/version")
# WSL2 keeps the driver's libraries where Windows puts them.
LIBRARIES = ("libnvidia-ml.so.1", "/usr/lib/wsl/lib/libnvidia-ml.so.1")
WITHOUT = "SERVE_GPUS=none serves without a GPU"


def detect() -> Hardware:
    """Return the GPUs that a CUDA program would see here, in the order of the PCI bus.

    Honours CUDA_VISIBLE_DEVICES, which NVML itself does not. Never raises: where GPUs are there and cannot be used,
    `problem` says why.
    """
    if not library_is_there():
        return _without_driver()
    try:
        import pynvml  # type: ignore[import-untyped]
    except ImportError:
        return _problem("the package nvidia-ml-py is missing (`make setup`)")
    try:
        pynvml.nvmlInit()
    except Exception as error:  # whatever a driver's library does, the machine can still be described
        return _problem(
            f"There is an NVIDIA driver, but it does not work: {_said(error)}. `nvidia-smi` must run first ({WITHOUT})"
        )
    try:
        return _read(pynvml)
    finally:
        with contextlib.suppress(Exception):
            pynvml.nvmlShutdown()


def library_is_there() -> bool:
    """Whether the driver's library can be loaded: asked first, since importing its bindings takes a while."""
    for library in LIBRARIES:
        with contextlib.suppress(OSError):
            ctypes.CDLL(library)
            return True
    return False


def _without_driver() -> Hardware:
    plugged = pci.plugged_in()
    if KERNEL_MODULE.exists() or any(gpu.maker == "NVIDIA" for gpu in plugged):
        return _problem(
            "There is an NVIDIA GPU, and its driver's library is not to be found here: install the driver, or in a "
            f"container start it with `--gpus all` ({WITHOUT})"
        )
    if plugged:
        build = "ROCm" if plugged[0].maker == "AMD" else "Intel's XPUs"
        return _problem(
            f"There is an {plugged[0]}, and the kit plans and installs vLLM for NVIDIA GPUs and for the CPU. To use "
            f"it, start a `vllm serve` that is built for {build} by hand, and point the client's LLM_BASE_URL at it "
            f"({WITHOUT})"
        )
    notes: tuple[str, ...] = ()
    if pci.WSL_DEVICE.exists():
        notes = (
            "This is WSL2, and Windows lends it a GPU that vLLM cannot use: an NVIDIA one needs NVIDIA's driver on "
            "Windows, other makers' do not work here",
        )
    return Hardware((), host_bytes=host.available_bytes(), notes=notes)


def _read(nvml: Any) -> Hardware:
    count = _count(_ask(lambda: nvml.nvmlDeviceGetCount()))
    if count is None:
        return _problem(
            f"There is an NVIDIA driver, but it does not count its GPUs. `nvidia-smi` must run first ({WITHOUT})"
        )
    devices = [device for number in range(count) for device in _devices(nvml, number, count)]
    broken = [device for device in devices if device.broken is not None]
    if any(not device.gpu.mig for device in broken):
        # CUDA may count without the broken one, so the others go by what cannot be mistaken.
        devices = [replace(item, gpu=replace(item.gpu, id=item.uuid or item.gpu.id)) for item in devices]
    seen = visible(devices, os.environ.get(VARIABLE))
    problem = seen.problem
    if not seen.gpus and problem is None:
        if broken:
            problem = f"No GPU can be used here: {broken[0].broken} ({WITHOUT})"
        elif any(gpu.maker == "NVIDIA" for gpu in pci.plugged_in()):
            problem = (
                f"There is an NVIDIA GPU that its driver does not see: `nvidia-smi` must list it first ({WITHOUT})"
            )
    version = _ask(lambda: nvml.nvmlSystemGetCudaDriverVersion_v2())
    driver = _ask(lambda: nvml.nvmlSystemGetDriverVersion())
    left_out = [device.broken for device in broken if seen.gpus and device.broken]
    return Hardware(
        seen.gpus,
        driver=None if driver is None else _text(driver),
        cuda=f"{version // 1000}.{version % 1000 // 10}" if isinstance(version, int) else None,
        source="nvml",
        problem=problem,
        host_bytes=host.available_bytes(),
        notes=(*dict.fromkeys((*left_out, *seen.notes)),),
        restricted=len(seen.gpus) < len(devices) or os.environ.get(VARIABLE) is not None,
    )


def _devices(nvml: Any, number: int, count: int) -> Iterator[Device]:
    """Yield what can be named of GPU `number`: itself, or its MIG slices."""
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(number)
    except Exception as error:
        yield _broken(number, f"GPU {number} is there, and the driver says: {_said(error)}")
        return
    capability = _capability(_ask(lambda: nvml.nvmlDeviceGetCudaComputeCapability(handle)))
    if not _in_mig_mode(nvml, handle):
        uuid = _ask(lambda: _text(nvml.nvmlDeviceGetUUID(handle)))
        try:
            gpu = _gpu(nvml, handle, str(number), capability)
        except Exception as error:
            yield _broken(number, f"GPU {number} does not say how much memory it has: {_said(error)}", uuid)
            return
        yield Device(gpu, number, uuid)
        return
    found = 0
    for index in range(_count(_ask(lambda: nvml.nvmlDeviceGetMaxMigDeviceCount(handle))) or 0):
        try:
            device = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
            uuid = _text(nvml.nvmlDeviceGetUUID(device))
            gpu = _gpu(nvml, device, uuid, capability, mig=True)
        except Exception:  # noqa: S112 (there is no slice of this number, or it has just gone)
            continue
        # vLLM 0.32 takes the slice's number within its GPU for the number of a GPU
        # (`NvmlCudaPlatform.device_control_id_to_physical_device_id`), and asks NVML for that.
        broken = None
        if index >= count:
            broken = (
                f"{uuid} is slice {index} of GPU {number}, which vLLM 0.32 takes for GPU {index}, and that is not "
                "there: use the first slice, or a container that is given this slice alone"
            )
        yield Device(gpu, number if found == 0 else None, uuid, broken)
        found += 1
    if not found:
        yield _broken(
            number, f"GPU {number} is in MIG mode and has no slice: make one with `nvidia-smi mig -cgi ... -C`"
        )


def _broken(number: int, why: str, uuid: str | None = None) -> Device:
    return Device(Gpu("GPU", 0, 0, None, id=str(number)), number, uuid, why)


def _gpu(nvml: Any, handle: Any, identity: str, capability: tuple[int, int] | None, *, mig: bool = False) -> Gpu:
    """Read a GPU. Raises whatever NVML does if its memory is not to be known."""
    name = _ask(lambda: _text(nvml.nvmlDeviceGetName(handle))) or "NVIDIA GPU"
    known = find(name)
    unified = False
    try:
        total, free = _memory(nvml, handle)
    except Exception as error:
        total, free = host.total_bytes() or 0, host.available_bytes() or 0
        if not (_is_not_supported(nvml, error) and total):
            raise
        unified = True  # GB10, Thor, Orin: the GPU's memory is the host's
    return Gpu(
        name=name,
        total_bytes=total,
        free_bytes=max(0, min(free, total)),
        compute_capability=capability or (known.capability if known else None),
        mig=mig,
        processes=_processes(nvml, handle),
        id=identity,
        unified=unified,
    )


def _memory(nvml: Any, handle: Any) -> tuple[int, int]:
    try:
        # What the driver keeps for itself is in `total` but never in what a CUDA program sees.
        memory = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
        total = int(memory.total) - int(memory.reserved)
    except Exception:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        total = int(memory.total)
    if total <= 0:
        raise ValueError(f"it reports {total} bytes")
    return total, int(memory.free)


def _is_not_supported(nvml: Any, error: Exception) -> bool:
    kind = getattr(nvml, "NVMLError_NotSupported", None)
    return (kind is not None and isinstance(error, kind)) or "not supported" in str(error).lower()


def _in_mig_mode(nvml: Any, handle: Any) -> bool:
    # GPUs that cannot be divided do not know the question.
    return bool(_ask(lambda: nvml.nvmlDeviceGetMigMode(handle)[0] == nvml.NVML_DEVICE_MIG_ENABLE))


def _count(answer: Any) -> int | None:
    return max(0, min(answer, MAX_GPUS)) if isinstance(answer, int) else None


def _capability(answer: Any) -> tuple[int, int] | None:
    with contextlib.suppress(TypeError, ValueError, LookupError):
        major, minor = int(answer[0]), int(answer[1])
        return (major, minor) if major > 0 <= minor else None
    return None


def _processes(nvml: Any, handle: Any) -> tuple[Process, ...]:
    def read(question: Callable[[Any], Any]) -> list[Process]:
        return [Process(item.pid, _process_name(nvml, item.pid), item.usedGpuMemory) for item in question(handle)]

    return (
        *(_ask(lambda: read(nvml.nvmlDeviceGetComputeRunningProcesses)) or ()),
        *(_ask(lambda: read(nvml.nvmlDeviceGetGraphicsRunningProcesses)) or ()),
    )


def _process_name(nvml: Any, pid: int) -> str | None:
    # What runs in another container, or has just ended, has none.
    name: str | None = _ask(lambda: _text(nvml.nvmlSystemGetProcessName(pid)))
    return name


def _ask(question: Callable[[], Any]) -> Any:
    """Return the answer, None if there is none: what is asked this way can be done without."""
    try:
        return question()
    except Exception:
        return None


def _problem(said: str) -> Hardware:
    return Hardware((), problem=said, host_bytes=host.available_bytes())


def _said(error: Exception) -> str:
    text = "".join(letter for letter in str(error) if letter.isprintable())
    return text.rstrip(".") or type(error).__name__


def _text(value: str | bytes) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return "".join(letter for letter in text if letter.isprintable())
