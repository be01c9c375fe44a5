"""What the driver, the PCI bus and CUDA_VISIBLE_DEVICES say of a machine, through stand-ins for each."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.engine.command import plan_environment
from serving.hardware import host, nvml, pci
from serving.hardware.gpu import Hardware
from serving.hardware.nvml import detect
from serving.model.gemma3 import FAMILY
from serving.planning.plan import PlanRequest, make_plan
from serving.units import GIB
from tests.serving.hardware.nvml_stand_in import CALLS, Nvml, h100, slices

MEMINFO = "MemTotal:       127534080 kB\nMemFree:  1 kB\nMemAvailable:   120586240 kB\n"


class Box:
    """A machine whose driver, bus and files are stand-ins."""

    def __init__(self, patch, path):
        self.patch, self.path = patch, path
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        (path / "meminfo").write_text(MEMINFO)
        patch.setattr(host, "MEMINFO", path / "meminfo")
        patch.setattr(host, "CGROUP_LIMIT", path / "absent")
        patch.setattr(nvml, "KERNEL_MODULE", path / "absent")
        patch.setattr(pci, "PCI_DEVICES", path / "pci")
        patch.setattr(pci, "WSL_DEVICE", path / "absent")
        self.without_driver()

    def without_driver(self, *, module=False, wsl=False):
        self.patch.setattr(nvml, "library_is_there", lambda: False)
        if module:
            self.patch.setattr(nvml, "KERNEL_MODULE", self.path)
        if wsl:
            self.patch.setattr(pci, "WSL_DEVICE", self.path)
        return detect()

    def plug(self, vendor, kind="0x030000", address="0000:41:00.0", **files):
        folder = self.path / "pci" / address
        folder.mkdir(parents=True)
        for name, text in {"vendor": vendor, "class": kind, **files}.items():
            (folder / name).write_text(f"{text}\n")
        return detect()

    def driver(self, *gpus, visible=None, **how):
        self.patch.setattr(nvml, "library_is_there", lambda: True)
        self.patch.setitem(sys.modules, "pynvml", Nvml(gpus, **how))
        if visible is not None:
            self.patch.setenv("CUDA_VISIBLE_DEVICES", visible)
        return detect()


@pytest.fixture
def box(monkeypatch, tmp_path):
    return Box(monkeypatch, tmp_path)


def environment(hardware, model=FAMILY[0], **wishes):
    return plan_environment(make_plan(model, hardware, PlanRequest(**wishes)))


def test_nvml_gives_what_a_program_sees_not_what_is_on_the_box(box):
    hardware = box.driver(h100(0), h100(1, free=40_000, pids=[4242]))
    assert (hardware.source, hardware.driver, hardware.cuda) == ("nvml", "580.65", "13.0")
    first, second = hardware.gpus
    assert first.total_bytes / GIB == pytest.approx(79.1, abs=0.05)
    assert second.free_bytes / GIB == pytest.approx(39.1, abs=0.05)
    assert [(process.pid, process.name) for process in second.processes] == [(4242, "python")]


def test_the_plan_of_a_mixed_box_names_the_gpu_that_it_is_for(box):
    mixed = box.driver(h100(0, name="Tesla T4", capability=[7, 5], total=15360, free=15000), h100(1))
    assert environment(mixed) == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1"}


@pytest.mark.parametrize(
    ("value", "ids"),
    [
        ("1", ["1"]),
        ("1,0", ["1", "0"]),
        (" 0 , 1 ", ["0", "1"]),
        ("0,", ["0"]),
        ("GPU-1", ["1"]),
        ("GPU-0,GPU-1", ["0", "1"]),
    ],
)
def test_the_plan_is_made_for_the_gpus_that_are_named(box, value, ids):
    hardware = box.driver(h100(0), h100(1), visible=value)
    assert (hardware.problem, [gpu.id for gpu in hardware.gpus]) == (None, ids)
    # In vLLM's own words, which are numbers: it looks for a UUID that is cut short in vain.
    assert environment(hardware)["CUDA_VISIBLE_DEVICES"] == ",".join(ids)


def test_a_gpu_that_is_left_out_is_told(box):
    (note,) = box.driver(h100(0), h100(1), visible="1").notes
    assert "leaves out 0 (NVIDIA H100 80GB HBM3)" in note
    hardware = box.driver(h100(0), h100(1), visible="1,7")
    assert [gpu.id for gpu in hardware.gpus] == ["1"]
    assert "'7' is none of them" in hardware.notes[0]


@pytest.mark.parametrize(
    "value",
    [
        "2",
        "-1",
        "all",
        "0;1",
        "",
        " ",
        ",",
        "none",
        "void",
        "NoDevFiles",
        "0,0",
        "GPU-0,0",
        "0 1",
        "GPU-",
        "GPU-9",
        "gpu0",
        "1gpu",
        "²",
        "0x1",
        "MIG-x",
        "9" * 40,
    ],
)
def test_a_variable_that_names_no_gpu_is_a_sentence_and_never_no_gpu(box, value):
    hardware = box.driver(h100(0), h100(1), visible=value)
    assert not hardware.gpus
    assert f"CUDA_VISIBLE_DEVICES={value!r} names no GPU here" in hardware.problem
    assert "0 (NVIDIA H100 80GB HBM3), 1 (NVIDIA H100 80GB HBM3)" in hardware.problem


def test_a_uuid_that_is_cut_short_must_mean_one_gpu(box):
    gpus = [h100(0, uuid="GPU-ab1"), h100(1, uuid="GPU-ab2")]
    assert [gpu.id for gpu in box.driver(*gpus, visible="GPU-ab2").gpus] == ["1"]
    assert "more than one" in box.driver(*gpus, visible="GPU-ab").problem


def test_a_mig_slice_is_given_as_vllm_can_open_it(box):
    """vLLM 0.32 takes the number of a slice for that of a GPU, so a second slice needs a second GPU."""
    single = box.driver(h100(0, slices=slices("3g.40gb", "3g.40gb")))
    assert [(gpu.id, gpu.mig) for gpu in single.gpus] == [("MIG-a0", True)]
    assert "slice 1 of GPU 0" in single.notes[0]
    assert environment(single) == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "MIG-a0"}
    refused = box.driver(h100(0, slices=slices("3g.40gb", "3g.40gb")), visible="MIG-a1")
    assert "vLLM 0.32 takes for GPU 1" in refused.problem
    two = box.driver(h100(0, slices=slices("1g.10gb", "3g.40gb")), h100(1), visible="MIG-a1")
    assert [gpu.id for gpu in two.gpus] == ["MIG-a1"]
    assert [gpu.id for gpu in box.driver(h100(0, slices=slices("3g.40gb")), visible="0").gpus] == ["MIG-a0"]


def test_mig_mode_without_a_slice_is_a_problem(box):
    assert "MIG mode and has no slice" in box.driver(h100(0, slices=[])).problem


@pytest.mark.parametrize(
    ("name", "capability"), [("NVIDIA GB10", [12, 1]), ("NVIDIA Thor", [11, 0]), ("NVIDIA GB20", [12, 1])]
)
def test_a_memory_that_nvml_does_not_tell_is_the_hosts(box, name, capability):
    hardware = box.driver(h100(0, name=name, capability=capability, unified=True))
    (gpu,) = hardware.gpus
    assert gpu.unified
    assert gpu.total_bytes / GIB == pytest.approx(121.6, abs=0.1)
    assert gpu.free_bytes / GIB == pytest.approx(115, abs=0.1)
    plan = make_plan(FAMILY[0], hardware, PlanRequest())
    assert plan.fits
    share = plan.gpu_memory_utilization
    assert gpu.free_bytes - share * gpu.total_bytes >= 16 * GIB
    assert "the host's too" in plan.reason


def test_the_gpu_of_a_gh200_has_a_memory_of_its_own(box):
    (gpu,) = box.driver(h100(0, name="NVIDIA GH200 480GB", total=97871, free=97000)).gpus
    assert not gpu.unified
    assert gpu.total_bytes / GIB == pytest.approx(95, abs=0.1)


def test_a_gpu_that_fell_off_the_bus_is_told_and_the_others_serve(box):
    lost = {("nvmlDeviceGetHandleByIndex", 0): Nvml.NVMLError_GpuIsLost()}
    hardware = box.driver(h100(0), h100(1), stumbles=lost)
    assert [gpu.id for gpu in hardware.gpus] == ["GPU-1"]  # CUDA may count without the lost one
    assert "GPU 0 is there, and the driver says: GPU is lost" in hardware.notes[0]
    assert environment(hardware)["CUDA_VISIBLE_DEVICES"] == "GPU-1"
    alone = box.driver(h100(0), stumbles=lost)
    assert "GPU is lost" in alone.problem
    assert "GPU is lost" in box.driver(h100(0), h100(1), stumbles=lost, visible="0").problem


def test_no_driver_is_no_problem_and_a_broken_one_is(box):
    none = box.without_driver()
    assert (none.gpus, none.source, none.problem, none.notes) == ((), "none", None, ())
    for failure in ("Driver/library version mismatch", "Driver Not Loaded"):
        broken = box.driver(failure=Nvml.NVMLError(failure))
        assert broken.gpus == ()
        assert failure in broken.problem
    assert "--gpus all" in box.without_driver(module=True).problem


@pytest.mark.parametrize(
    ("plugged", "said"),
    [
        ({"vendor": "0x10de", "kind": "0x030200"}, "There is an NVIDIA GPU, and its driver's library is not"),
        (
            {
                "vendor": "0x1002",
                "kind": "0x120000",
                "mem_info_vram_total": 192 * GIB,
                "product_name": "AMD Instinct MI300X",
            },
            "AMD Instinct MI300X, 192 GiB",
        ),
        ({"vendor": "0x1002", "mem_info_vram_total": 24 * GIB}, "`vllm serve` that is built for ROCm by hand"),
        ({"vendor": "0x8086"}, "built for Intel's XPUs"),
    ],
)
def test_a_gpu_that_the_kit_cannot_use_is_told_and_never_means_the_try_out_model(box, plugged, said):
    problem = box.plug(**plugged).problem
    assert said in problem
    assert "SERVE_GPUS=none" in problem


@pytest.mark.parametrize(
    "plugged",
    [
        {"vendor": "0x8086", "address": "0000:00:02.0"},  # Intel's, inside the processor
        {"vendor": "0x1002", "mem_info_vram_total": 2 * GIB},  # AMD's, inside the processor
        {"vendor": "0x1a03"},  # a server's management chip
        {"vendor": "0x10de", "kind": "0x040300"},  # the sound of a graphics card
    ],
)
def test_what_could_not_serve_anyway_is_no_problem(box, plugged):
    assert box.plug(**plugged).problem is None


def test_wsl_without_nvidia_is_told(box):
    hardware = box.without_driver(wsl=True)
    assert hardware.problem is None
    assert "WSL2" in hardware.notes[0]


def test_a_driver_that_sees_none_of_the_gpus_there_is_a_problem(box):
    assert box.driver().problem is None
    box.plug("0x10de")
    assert "its driver does not see" in box.driver().problem


ODD = st.one_of(
    st.sampled_from(
        [
            Nvml.NVMLError("Unknown Error"),
            Nvml.NVMLError_NotSupported(),
            Nvml.NVMLError_GpuIsLost(),
            Nvml.NVMLError_NoPermission(),
            Nvml.NVMLError_FunctionNotFound(),
            ValueError("x"),
            OSError(),
            UnicodeDecodeError("utf-8", b"", 0, 1, "x"),
        ]
    ),
    st.none(),
    st.integers(-2, 2**70),
    st.binary(max_size=4),
    st.text(max_size=4),
    st.just(()),
    st.just([0, 0]),
    st.builds(
        SimpleNamespace, total=st.integers(-1, 2**40), reserved=st.integers(0, 2**41), free=st.integers(-1, 2**42)
    ),
)
BOXES = st.sampled_from(
    [
        (),
        (h100(0),),
        (h100(0), h100(1)),
        (h100(0, name="NVIDIA GB10", unified=True),),
        (h100(0, slices=slices("3g.40gb", "3g.40gb")), h100(1)),
        (h100(0, slices=[]),),
    ]
)
VALUES = st.one_of(
    st.none(),
    st.sampled_from(["0", "1", "0,1", "2", "-1", "all", "MIG-a0", "MIG-a1", "GPU-0", ""]),
    st.text("0123,GPU-MIa ;", max_size=6),
)
KEYS = st.one_of(st.sampled_from(("nvmlShutdown", *CALLS)), st.tuples(st.sampled_from(CALLS), st.integers(0, 1)))


@settings(deadline=None, max_examples=80)
@given(gpus=BOXES, stumbles=st.dictionaries(KEYS, ODD, max_size=4), visible=VALUES)
def test_whatever_nvml_answers_is_hardware_or_a_sentence(tmp_path_factory, gpus, stumbles, visible):
    stumbles = {
        key: answer for key, answer in stumbles.items() if key != "nvmlShutdown" or isinstance(answer, Exception)
    }
    with pytest.MonkeyPatch.context() as patch:
        hardware = Box(patch, tmp_path_factory.mktemp("box")).driver(*gpus, stumbles=stumbles, visible=visible)
    assert isinstance(hardware, Hardware)
    for sentence in (hardware.problem, *hardware.notes):
        assert sentence is None or (sentence.isprintable() and len(sentence) < 2000)
    if hardware.problem:
        assert not hardware.gpus
    for gpu in hardware.gpus:
        assert 0 <= gpu.free_bytes <= gpu.total_bytes
        assert gpu.id
    if gpus and not stumbles and not hardware.gpus:
        assert hardware.problem
    assert make_plan(FAMILY[3], replace(hardware, host_bytes=64 * GIB), PlanRequest()).reason
