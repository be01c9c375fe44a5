"""The doctor's checks of a machine, on machines that are described."""

import socket

import pytest

from serving.checks import machine as machine_checks
from serving.hardware.gpu import Gpu, Hardware, Process
from serving.hardware.parse import parse_gpus
from serving.model.gemma3 import FAMILY
from serving.planning.plan import PlanRequest, make_plan
from serving.settings import ServeSettings
from serving.units import GIB


def box(capability=(9, 0), free=79, processes=(), **more):
    gpu = Gpu("NVIDIA H100 80GB HBM3", 79 * GIB, free * GIB, capability, processes=processes, id="0")
    return Hardware((gpu,), **({"driver": "580.65", "cuda": "13.0", "source": "nvml"} | more))


@pytest.fixture
def engine(tmp_path):
    """Make an environment with a vLLM of some build, of which only the metadata is real."""

    def install(version="0.32.0", cuda=None):
        packages = tmp_path / "lib" / "python3.11" / "site-packages"
        (packages / f"vllm-{version}.dist-info").mkdir(parents=True)
        if cuda:
            (packages / f"nvidia_cuda_runtime-{cuda}.dist-info").mkdir()
        program = tmp_path / "bin" / "vllm"
        program.parent.mkdir()
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        return ServeSettings(engine=program)  # type: ignore[call-arg]  # the rest comes from the environment

    return install


def statuses(checks):
    return {check.name: check.status for check in checks}


@pytest.mark.parametrize(
    ("version", "cuda", "hardware", "status", "said"),
    [
        ("0.32.0", "13.0.96", box(), "ok", "the engine needs 13.0"),
        ("0.32.0", "13.0.96", box(cuda="12.8"), "fail", "for CUDA 12.8, the engine needs 13.0"),
        ("0.32.0", "12.9.1", box(cuda="12.4"), "ok", "the engine needs 12.9"),
        ("0.32.0", None, box(), "unknown", "not known"),
        ("0.32.0+cpu", None, box(), "fail", "the CPU build, and there is a GPU"),
        ("0.32.0+cpu", None, Hardware(()), "ok", "the CPU build, and no GPU"),
        ("0.32.0", "13.0.96", Hardware(()), "fail", "the CUDA build, and there is no GPU"),
        ("0.32.0", "13.0.96", Hardware((), problem="Driver Not Loaded"), "fail", "Driver Not Loaded"),
    ],
)
def test_driver_and_engine_must_go_together(engine, version, cuda, hardware, status, said):
    driver = next(check for check in machine_checks.engine(engine(version, cuda), hardware) if check.name == "driver")
    assert driver.status == status
    assert said in driver.detail


def test_another_version_of_vllm_is_a_warning(engine):
    assert statuses(machine_checks.engine(engine("0.31.0+cpu"), Hardware(())))["engine"] == "warn"


def test_what_a_gpu_computes_and_who_holds_its_memory_are_said():
    busy = box(free=40, processes=(Process(4242, "python", None),))
    computes, held = machine_checks.gpus(busy, given=False)
    assert (computes.status, "bf16 and fp8" in computes.detail) == ("ok", True)
    assert held.status == "warn"
    assert "39.0 GiB are held by python (4242)" in held.detail
    assert held.fix == "kill 4242"
    assert statuses(machine_checks.gpus(box((7, 5)), given=True)) == {"GPU 0": "warn"}
    assert statuses(machine_checks.gpus(box((7, 0)), given=True)) == {"GPU 0": "fail"}


def test_host_memory_must_hold_what_the_cpu_engine_loads():
    plan = make_plan(FAMILY[4], parse_gpus(""), PlanRequest())
    for size, status in ((2, "fail"), (16, "ok")):
        checks = machine_checks.memory(Hardware((), host_bytes=size * GIB), plan)
        assert statuses(checks)["host memory"] == status


def test_a_taken_port_is_named():
    with socket.create_server(("127.0.0.1", 0)) as holder:
        settings = ServeSettings(port=holder.getsockname()[1])  # type: ignore[call-arg]
        check = machine_checks.port(settings)
    assert check.status == "fail"
    assert "is taken" in check.detail
