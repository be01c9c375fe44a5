"""The machine's GPUs as the NVIDIA driver reports them, through NVML."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

from serving.hardware.gpu import Gpu, Hardware, Process

KERNEL_MODULE = Path("/proc/driver/nvidia/version")


def detect() -> Hardware:
    """Return the GPUs that a CUDA program would see here, in the order of the PCI bus.

    Honours CUDA_VISIBLE_DEVICES, which NVML itself does not. Never raises: without a driver there is no GPU, and a
    driver that does not work is described in `problem`.
    """
    if not library_is_there():
        # The kernel's module without its library is a container that was not given the GPUs.
        hidden = KERNEL_MODULE.exists()
        problem = "its library is not to be found here (in a container: start it with `--gpus all`)" if hidden else None
        return Hardware((), problem=problem, host_bytes=_host_bytes())
    try:
        import pynvml  # type: ignore[import-untyped]
    except ImportError:
        return Hardware((), problem="the package nvidia-ml-py is missing (`make setup`)", host_bytes=_host_bytes())
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Hardware((), problem=str(error), host_bytes=_host_bytes())
    try:
        return _read(pynvml)
    except pynvml.NVMLError as error:
        return Hardware((), problem=str(error), host_bytes=_host_bytes())
    finally:
        pynvml.nvmlShutdown()


def library_is_there() -> bool:
    """Tell whether the driver's library can be loaded: asked first, since importing its bindings takes a while."""
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


def _read(nvml: Any) -> Hardware:
    gpus: list[Gpu] = []
    problem = None
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        if _in_mig_mode(nvml, handle):
            slices = _slices(nvml, handle)
            gpus += slices
            if not slices:
                problem = f"GPU {index} is in MIG mode and has no slice: make one with `nvidia-smi mig -cgi ... -C`"
        else:
            gpus.append(_gpu(nvml, handle, str(index), nvml.nvmlDeviceGetCudaComputeCapability(handle)))
    version = nvml.nvmlSystemGetCudaDriverVersion_v2()
    by_id = {str(gpu.id): gpu for gpu in gpus}
    by_id |= {_uuid(nvml, int(number)): gpu for number, gpu in by_id.items() if number.isdigit()}
    return Hardware(
        _visible(gpus, by_id),
        driver=_text(nvml.nvmlSystemGetDriverVersion()),
        cuda=f"{version // 1000}.{version % 1000 // 10}",
        source="nvml",
        problem=None if gpus else problem,
        host_bytes=_host_bytes(),
    )


def _visible(gpus: list[Gpu], by_id: dict[str, Gpu]) -> tuple[Gpu, ...]:
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return tuple(gpus)
    chosen: list[Gpu] = []
    for word in wanted.split(","):
        word = word.strip()
        found = by_id.get(word) or next((gpu for key, gpu in by_id.items() if word and key.startswith(word)), None)
        if found is None:
            break  # CUDA stops at the first that it does not know, too
        chosen.append(found)
    return tuple(chosen)


def _gpu(nvml: Any, handle: Any, identity: str, capability: tuple[int, int], *, mig: bool = False) -> Gpu:
    try:
        # What the driver keeps for itself is in `total` but never in what a CUDA program sees.
        memory = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
        total = memory.total - memory.reserved
    except nvml.NVMLError:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        total = memory.total
    return Gpu(
        name=_text(nvml.nvmlDeviceGetName(handle)),
        total_bytes=total,
        free_bytes=min(memory.free, total),
        compute_capability=(int(capability[0]), int(capability[1])),
        mig=mig,
        processes=_processes(nvml, handle),
        id=identity,
    )


def _slices(nvml: Any, handle: Any) -> list[Gpu]:
    slices = []
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            device = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except nvml.NVMLError_NotFound:
            continue
        capability = nvml.nvmlDeviceGetCudaComputeCapability(handle)
        slices.append(_gpu(nvml, device, _text(nvml.nvmlDeviceGetUUID(device)), capability, mig=True))
    return slices


def _in_mig_mode(nvml: Any, handle: Any) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0] == nvml.NVML_DEVICE_MIG_ENABLE)
    except nvml.NVMLError:
        return False  # GPUs that cannot be divided do not know the question


def _processes(nvml: Any, handle: Any) -> tuple[Process, ...]:
    try:
        running = [
            *nvml.nvmlDeviceGetComputeRunningProcesses(handle),
            *nvml.nvmlDeviceGetGraphicsRunningProcesses(handle),
        ]
    except nvml.NVMLError:
        return ()
    return tuple(Process(entry.pid, _process_name(nvml, entry.pid), entry.usedGpuMemory) for entry in running)


def _process_name(nvml: Any, pid: int) -> str | None:
    try:
        return _text(nvml.nvmlSystemGetProcessName(pid))
    except nvml.NVMLError:
        return None  # it runs in another container, or has just ended


def _uuid(nvml: Any, index: int) -> str:
    return _text(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(index)))


def _host_bytes() -> int | None:
    """Return the host memory that is free to take, in bytes: the machine's, or the container's if that is less."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:  # noqa: PTH123
            available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as limit:  # noqa: PTH123
            return min(available, int(limit.read()))
    except (OSError, ValueError):
        return available


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
