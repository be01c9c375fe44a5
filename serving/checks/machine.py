"""What the machine must have: an engine that goes with the driver, GPUs, memory, a port, a clock."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from serving.checks.check import Check, Status
from serving.engine.port import refuse_taken_port
from serving.engine.program import find_engine, pinned_version
from serving.errors import Refused, ServingError
from serving.model.hub_cache import find_hub
from serving.planning.precision import BF16_CAPABILITY, ENGINE_CAPABILITY, FP8_CAPABILITY
from serving.units import GIB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from serving.hardware.gpu import Gpu, Hardware
    from serving.planning.plan import Plan
    from serving.settings import ServeSettings

SHARED_MEMORY_BYTES = GIB  # NCCL and vLLM's processes talk through it; Docker gives 64 MiB unless told
HOST_BYTES = 4 * GIB  # vLLM's processes, with everything that they import


def driver_problem(hardware: Hardware) -> Refused | None:
    """Return why GPUs that are here cannot be used, None if they can or there are none."""
    return None if hardware.problem is None else Refused(f"{hardware.problem}.")


def engine(settings: ServeSettings, hardware: Hardware) -> Iterator[Check]:
    """Check that there is a vLLM, which it is, and that its build goes with the driver."""
    if problem := driver_problem(hardware):
        yield Check.failed("driver", problem)
    try:
        program = find_engine(settings.engine)
    except ServingError as error:
        yield Check.failed("engine", error, "make setup-engine")
        return
    version = _installed(program, "vllm")
    if version is None:
        yield Check("engine", "unknown", f"{program}, of an unknown version")
        return
    release, _, build = version.partition("+")
    made_for = pinned_version("cpu" if build == "cpu" else "cuda")
    status: Status = "ok" if release == made_for else "warn"
    note = "" if status == "ok" else f"; the kit was made for {made_for}"
    yield Check("engine", status, f"vLLM {version}{note}", "make setup-engine")
    remake = "rm -r .venv-engine && make setup-engine"
    if problem:
        return
    if build == "cpu":
        status = "fail" if hardware.gpus else "ok"
        detail = "the engine is the CPU build, and there is a GPU" if hardware.gpus else "the CPU build, and no GPU"
        yield Check("driver", status, detail, remake, needs_machine=True)
    elif not hardware.gpus:
        yield Check("driver", "fail", "the engine is the CUDA build, and there is no GPU", remake, needs_machine=True)
    else:
        yield _driver(hardware, _installed(program, "nvidia_cuda_runtime"))


def gpus(hardware: Hardware, *, given: bool) -> Iterator[Check]:
    """Check each GPU: what it can compute, who holds its memory; and tell what is there and not used."""
    for note in hardware.notes:
        yield Check("GPUs", "warn", note)
    for number, gpu in enumerate(hardware.gpus):
        name = f"GPU {number}"
        capability = gpu.compute_capability
        if capability is None:
            yield Check(name, "unknown", f"{gpu.name}: its compute capability is not known")
        elif capability < ENGINE_CAPABILITY:
            yield Check(name, "fail", f"{_said(gpu)}: vLLM needs 7.5", "use a newer GPU", needs_machine=True)
        elif capability < BF16_CAPABILITY:
            yield Check(name, "warn", f"{_said(gpu)}: no bfloat16, so small models in float32 only")
        else:
            fp8 = "bf16 and fp8" if capability >= FP8_CAPABILITY else "bf16; fp8 for weights only"
            yield Check(name, "ok", f"{_said(gpu)}: {fp8}")
        if not given:
            yield _held(name, gpu)


def memory(hardware: Hardware, plan: Plan | None) -> Iterator[Check]:
    """Check the host's memory and the memory that its processes share."""
    if hardware.host_bytes is not None:
        needed = HOST_BYTES
        if plan is not None and plan.fits and not plan.gpus:
            needed += int((plan.memory_gib.get("weights", 0.0) + plan.memory_gib.get("kv_cache", 0.0)) * GIB)
        status: Status = "ok" if hardware.host_bytes >= needed else "fail"
        detail = f"{hardware.host_bytes / GIB:.1f} GiB may be used, {needed / GIB:.1f} GiB are needed"
        yield Check(
            "host memory", status, detail, "stop other programs, or raise the container's limit", needs_machine=True
        )
    shared = Path("/dev/shm")  # noqa: S108 (it is the thing that is measured)
    several = plan is not None and (plan.tensor_parallel_size or 1) > 1
    if shared.is_dir():
        total = shutil.disk_usage(shared).total
        status = "ok" if total >= SHARED_MEMORY_BYTES else "fail" if several else "warn"
        detail = f"{total / GIB:.1f} GiB" + (", which GPUs that share a model use to talk" if several else "")
        yield Check("shared memory", status, detail, "docker run --shm-size=8g (or --ipc=host)", needs_machine=True)


def port(settings: ServeSettings) -> Check:
    """Check that the port can be listened on."""
    try:
        refuse_taken_port(settings.host, settings.port)
    except ServingError as error:
        return Check.failed("port", error, "SERVE_PORT=8001 make serve")
    return Check("port", "ok", f"{settings.port} is free on {settings.host}")


def clock(settings: ServeSettings) -> Check:
    """Check that nothing in the caches is from the future: compiled code would be taken for newer than its source."""
    now = time.time()
    models = find_hub(settings.engine_variables).cache
    for folder in (models, Path("~/.cache/vllm").expanduser(), Path("~/.triton").expanduser()):
        try:
            ahead = max((entry.stat().st_mtime for entry in folder.iterdir()), default=0.0) - now
        except OSError:
            continue
        if ahead > 60:
            detail = f"{folder} holds files from {ahead / 60:.0f} minutes in the future"
            return Check("clock", "warn", detail, f"set the clock, then: find {folder} -exec touch {{}} +")
    return Check("clock", "ok", "no cache is from the future")


def _said(gpu: Gpu) -> str:
    major, minor = gpu.compute_capability or (0, 0)
    return f"{gpu.name}, {gpu.total_bytes / GIB:.1f} GiB, compute capability {major}.{minor}"


def _held(name: str, gpu: Gpu) -> Check:
    held = gpu.total_bytes - gpu.free_bytes
    detail = f"{gpu.free_bytes / GIB:.1f} GiB are free"
    if held <= GIB:
        return Check(f"{name} memory", "ok", detail)
    holders = ", ".join(f"{process.name or 'process'} ({process.pid})" for process in gpu.processes)
    detail += f"; {held / GIB:.1f} GiB are held by {holders or 'processes that are not to be seen from here'}"
    pids = " ".join(str(process.pid) for process in gpu.processes)
    return Check(f"{name} memory", "warn", detail, f"kill {pids}" if pids else "nvidia-smi")


def _driver(hardware: Hardware, runtime: str | None) -> Check:
    detail = f"NVIDIA driver {hardware.driver} for CUDA {hardware.cuda}"
    if runtime is None or hardware.cuda is None:
        return Check("driver", "unknown", f"{detail}; the engine's CUDA is not known")
    has = tuple(int(part) for part in hardware.cuda.split(".")[:2])
    needs = tuple(int(part) for part in runtime.split(".")[:2])
    detail += f", the engine needs {needs[0]}.{needs[1]}"
    # Within one major version any driver runs newer minor ones.
    status: Status = "ok" if has[0] >= needs[0] else "fail"
    return Check("driver", status, detail, "install a newer NVIDIA driver", needs_machine=True)


def _installed(program: Path, distribution: str) -> str | None:
    """Return the version of a distribution beside `program`, from its metadata: asking vLLM takes half a minute."""
    try:
        root = program.resolve().parent.parent
    except OSError:
        return None
    found = sorted(root.glob(f"lib/python*/site-packages/{distribution}-*.dist-info"))
    return found[0].name.removesuffix(".dist-info").partition("-")[2] if found else None
