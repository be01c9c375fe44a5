"""The grammar of SERVE_GPUS, and what NVML says, through a stand-in for the driver."""

import sys
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import ConfigurationError
from serving.hardware import nvml
from serving.hardware.catalog import KNOWN_GPUS
from serving.hardware.gpu import Hardware
from serving.hardware.nvml import detect
from serving.hardware.parse import parse_gpus
from serving.model.gemma3 import FAMILY
from serving.planning.plan import Wishes, make_plan
from serving.units import GIB


def one(text):
    (gpu,) = parse_gpus(text).gpus
    return gpu


@pytest.mark.parametrize(
    "text",
    [
        "NVIDIA H100 80GB HBM3",
        "1x NVIDIA H100 80GB HBM3",
        "1 x nvidia h100 80gb hbm3",
        "  H100  ",
        "1xh100",
        "H100 80GB",
        "1× H100",
        "H100 sm90",
        "H100 cc9.0",
    ],
)
def test_names_are_read_generously(text):
    gpu = one(text)
    assert gpu.compute_capability == (9, 0)
    assert gpu.total_bytes == gpu.free_bytes == int(79.2 * GIB)


@pytest.mark.parametrize("known", KNOWN_GPUS, ids=lambda known: known.name)
def test_every_known_gpu_is_found_by_its_names(known):
    for name in (known.name, *known.aliases):
        assert one(f"1x {name}").total_bytes == int(known.gib * GIB)


@pytest.mark.parametrize(
    ("text", "total", "free", "capability"),
    [
        ("1x 79.2GiB sm90", 79.2, 79.2, (9, 0)),
        ("1x 79.2GiB sm90 free=40GiB", 79.2, 40, (9, 0)),
        ("1x 79.2GiB free=40 GiB sm_90", 79.2, 40, (9, 0)),
        ("79.2 gib SM90", 79.2, 79.2, (9, 0)),
        ("80GB sm100", 80e9 / GIB, 80e9 / GIB, (10, 0)),
        ("40960MiB compute 8.0", 40, 40, (8, 0)),
        ("1x 39.5GiB sm90", 39.5, 39.5, (9, 0)),
        ("1x NVIDIA B300 268GiB sm103", 268, 268, (10, 3)),
        ("1x Something New 48GiB", 48, 48, None),
        ("1x L40S free=20GiB", 44.5, 20, (8, 9)),
        ("1x H100 80GB HBM3 MIG 3g.40gb 39.5GiB", 39.5, 39.5, (9, 0)),
    ],
)
def test_memory_capability_and_what_is_free_are_read(text, total, free, capability):
    gpu = one(text)
    assert gpu.total_bytes == pytest.approx(total * GIB, abs=2)
    assert gpu.free_bytes == pytest.approx(free * GIB, abs=2)
    assert gpu.compute_capability == capability


def test_a_mig_slice_has_its_share_of_the_memory():
    gpu = one("NVIDIA H100 80GB HBM3 MIG 3g.40gb")
    assert gpu.mig
    assert gpu.total_bytes / GIB == pytest.approx(39.5, abs=0.3)
    assert one("NVIDIA A100-SXM4-40GB MIG 1g.5gb").total_bytes / GIB == pytest.approx(4.75, abs=0.3)


def test_items_make_a_mixed_box():
    hardware = parse_gpus("2x NVIDIA L40S, 1x H100, T4")
    assert [gpu.name for gpu in hardware.gpus] == ["NVIDIA L40S"] * 2 + ["NVIDIA H100 80GB HBM3", "Tesla T4"]
    assert str(hardware) == "2x NVIDIA L40S, 1x NVIDIA H100 80GB HBM3, 1x Tesla T4"


@pytest.mark.parametrize("text", ["", "  ", "0x H100", "0x 79.2GiB sm90"])
def test_no_gpu_is_an_ordinary_answer(text):
    assert parse_gpus(text) == Hardware((), source="given")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1x A100", "A100 40GB or A100 80GB"),
        ("RTX 6000", "RTX PRO 6000"),
        ("V100", "V100 16GB or V100 32GB"),
        ("1x L40Z", "did you mean NVIDIA L40"),
        ("banana", "is no GPU that is known here"),
        ("2x", "is no GPU that is known here"),
        ("1x H100,,1x L4", "empty"),
        ("1x 79.2GiB sm90 free=90GiB", "more memory free than it has"),
        ("1x 79.2GiB sm90 free=lots", "no memory size"),
        ("H100 sm80", "another compute capability"),
        ("99x H100", "at most 64"),
        ("40x H100, 40x L4", "at most 64"),
        ("0.5GiB sm90", "less memory than any GPU"),
        ("9000GiB sm90", "more memory than any GPU"),
        ("MIG 3g.40gb", "add its memory"),
        ("1x -5GiB sm90", "GPU"),
        ("1x 79.2 sm90", "GPU"),
    ],
)
def test_what_makes_no_sense_or_is_ambiguous_is_refused_in_one_sentence(text, said):
    with pytest.raises(ConfigurationError, match="is not allowed") as caught:
        parse_gpus(text)
    message = str(caught.value)
    assert message.startswith(f"SERVE_GPUS={text!r}")
    assert said in message
    assert "\n" not in message


class Nvml:
    """A driver's library with whole GPUs (name, MiB, reserved, used, capability) and MIG slices."""

    NVML_DEVICE_MIG_ENABLE = 1
    nvmlMemory_v2 = 2

    class NVMLError(Exception):
        pass

    class NVMLError_NotFound(NVMLError):
        pass

    def __init__(self, gpus=(), failure=None):
        self.gpus, self.failure = list(gpus), failure

    def nvmlInit(self):
        if self.failure:
            raise self.failure

    def nvmlShutdown(self):
        pass

    def __getattr__(self, name):
        answers = {
            "nvmlDeviceGetCount": lambda: len(self.gpus),
            "nvmlDeviceGetHandleByIndex": lambda index: self.gpus[index],
            "nvmlDeviceGetMigMode": lambda gpu: [int("slices" in gpu), 0],
            "nvmlDeviceGetMaxMigDeviceCount": lambda gpu: 7,
            "nvmlDeviceGetMigDeviceHandleByIndex": self.slice,
            "nvmlDeviceGetName": lambda gpu: gpu["name"].encode(),
            "nvmlDeviceGetUUID": lambda gpu: gpu["uuid"],
            "nvmlDeviceGetCudaComputeCapability": lambda gpu: [9, 0],
            "nvmlDeviceGetMemoryInfo": self.memory,
            "nvmlDeviceGetComputeRunningProcesses": lambda gpu: [
                SimpleNamespace(pid=pid, usedGpuMemory=None) for pid in gpu.get("pids", ())
            ],
            "nvmlDeviceGetGraphicsRunningProcesses": lambda gpu: [],
            "nvmlSystemGetProcessName": lambda pid: b"python",
            "nvmlSystemGetDriverVersion": lambda: "580.65",
            "nvmlSystemGetCudaDriverVersion_v2": lambda: 13000,
        }
        if name not in answers:
            raise AttributeError(name)
        return answers[name]

    def slice(self, gpu, index):
        if index >= len(gpu["slices"]):
            raise self.NVMLError_NotFound
        return gpu["slices"][index]

    def memory(self, gpu, version=None):
        mib = 1024**2
        return SimpleNamespace(total=81559 * mib, reserved=551 * mib, free=gpu.get("free", 81008) * mib)


def h100(number, **more):
    return {"name": "NVIDIA H100 80GB HBM3", "uuid": f"GPU-{number}", **more}


@pytest.fixture
def driver(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def install(*gpus, failure=None, library=True, module=False):
        monkeypatch.setattr(nvml, "library_is_there", lambda: library)
        monkeypatch.setattr(nvml, "KERNEL_MODULE", tmp_path if module else tmp_path / "absent")
        monkeypatch.setitem(sys.modules, "pynvml", Nvml(gpus, failure))
        return detect()

    return install


def test_nvml_gives_what_a_program_sees_not_what_is_on_the_box(driver):
    hardware = driver(h100(0), h100(1, free=40_000, pids=[4242]))
    assert (hardware.source, hardware.driver, hardware.cuda) == ("nvml", "580.65", "13.0")
    first, second = hardware.gpus
    assert first.total_bytes / GIB == pytest.approx(79.1, abs=0.05)
    assert second.free_bytes / GIB == pytest.approx(39.1, abs=0.05)
    assert [(process.pid, process.name) for process in second.processes] == [(4242, "python")]


def test_cuda_visible_devices_hides_gpus_from_the_plan_too(driver, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [gpu.id for gpu in detect_with(driver)] == ["1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-0")
    assert [gpu.id for gpu in detect_with(driver)] == ["0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not detect_with(driver)


def detect_with(driver):
    import os

    visible = os.environ["CUDA_VISIBLE_DEVICES"]
    found = driver(h100(0), h100(1))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible
    return found.gpus


def test_mig_slices_stand_for_their_gpu(driver):
    slices = [{"name": "NVIDIA H100 80GB HBM3 MIG 3g.40gb", "uuid": f"MIG-{index}"} for index in range(2)]
    hardware = driver(h100(0, slices=slices))
    assert [(gpu.id, gpu.mig) for gpu in hardware.gpus] == [("MIG-0", True), ("MIG-1", True)]
    empty = driver(h100(0, slices=[]))
    assert not empty.gpus
    assert "MIG mode and has no slice" in empty.problem


def test_no_driver_is_no_problem_and_a_broken_one_is(driver):
    none = driver(library=False)
    assert (none.gpus, none.source, none.problem) == ((), "none", None)
    for failure in ("Driver/library version mismatch", "Driver Not Loaded"):
        broken = driver(failure=Nvml.NVMLError(failure))
        assert broken.gpus == ()
        assert failure in broken.problem
    assert "--gpus all" in driver(library=False, module=True).problem


WORDS = st.sampled_from(
    [
        "2x",
        "1x",
        "0x",
        "x",
        "H100",
        "A100",
        "NVIDIA",
        "MIG",
        "3g.40gb",
        "79.2GiB",
        "80GB",
        "sm90",
        "sm",
        "free=",
        "40GiB",
        ",",
    ]
)


@settings(deadline=None)
@given(
    st.one_of(st.text(max_size=40), st.lists(WORDS, max_size=8).map(" ".join), st.lists(WORDS, max_size=5).map("".join))
)
def test_any_text_is_read_or_refused_in_one_sentence(text):
    refusal = None
    try:
        hardware = parse_gpus(text)
    except ConfigurationError as error:
        refusal = str(error)
    if refusal is None:
        assert make_plan(FAMILY[0], hardware, Wishes()).reason
    else:
        assert "is not allowed" in refusal
        assert len(refusal.splitlines()) == 1
