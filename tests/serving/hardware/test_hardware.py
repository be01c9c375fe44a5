"""The grammar of SERVE_GPUS, and the cards that are known by name."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import ConfigurationError
from serving.hardware.catalog import KNOWN_GPUS
from serving.hardware.gpu import Hardware
from serving.hardware.parse import parse_gpus
from serving.model.gemma3 import FAMILY
from serving.planning.plan import PlanRequest, make_plan
from serving.planning.search import share
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
        ("NVIDIA GH200 480GB", 94.5, 94.5, (9, 0)),  # the name tells the CPU's memory
        ("8x NVIDIA L20 free=40GiB"[3:], 44.4, 40, (8, 9)),
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


@pytest.mark.parametrize("name", ["GB10", "DGX Spark", "Jetson Thor", "NVIDIA GB10 119GiB", "GB10 free=100GiB"])
def test_a_memory_that_is_the_hosts_leaves_the_host_its_own(name):
    gpu = one(name)
    assert gpu.unified
    assert share(gpu) * gpu.total_bytes <= gpu.free_bytes - 16 * GIB
    assert share(gpu) <= 0.8


def test_a_name_is_never_guessed_to_be_that_of_another_card():
    for text in ("RTX 5085", "RTX 3095", "H101", "L41"):
        with pytest.raises(ConfigurationError) as caught:
            parse_gpus(text)
        assert "did you mean" not in str(caught.value)


def test_items_make_a_mixed_box():
    hardware = parse_gpus("2x NVIDIA L40S, 1x H100, T4")
    assert [gpu.name for gpu in hardware.gpus] == ["NVIDIA L40S"] * 2 + ["NVIDIA H100 80GB HBM3", "Tesla T4"]
    assert str(hardware) == "2x NVIDIA L40S, 1x NVIDIA H100 80GB HBM3, 1x Tesla T4"


@pytest.mark.parametrize("text", ["", "  ", "none", "0x H100", "0x 79.2GiB sm90"])
def test_no_gpu_is_an_ordinary_answer(text):
    assert parse_gpus(text) == Hardware((), source="given")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1x A100", "A100 40GB or A100 80GB"),
        ("RTX 6000", "RTX PRO 6000"),
        ("V100", "V100 16GB or V100 32GB"),
        ("1x L40Z", "did you mean NVIDIA L40"),
        ("RTX 9080", "is no GPU that is known here; it"),
        ("AMD MI300X", "is no NVIDIA GPU"),
        ("8x MI325X 256GB", "is no NVIDIA GPU"),
        ("Radeon RX 7900 XTX 24GB", "is no NVIDIA GPU"),
        ("Intel Arc B580", "is no NVIDIA GPU"),
        ("Gaudi 3", "is no NVIDIA GPU"),
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
        assert make_plan(FAMILY[0], hardware, PlanRequest()).reason
    else:
        assert "is not allowed" in refusal
        assert len(refusal.splitlines()) == 1
