"""The flags of vLLM that the kit writes and refuses, held against the parsers of both versions that are pinned.

`flags-*.txt` are all option strings of `make_arg_parser`, read once from each version's own code.
"""

from pathlib import Path

import pytest

from serving.engine.command import GEMMA_TEMPLATE
from serving.engine.program import pinned_version
from serving.extra_args import SAID_BY_SETTINGS, refused
from serving.hardware.parse import parse_gpus
from serving.launch import settle
from serving.settings import ServeSettings

HERE = Path(__file__).parent
VERSIONS = sorted({pinned_version("cuda"), pinned_version("cpu")})


def known(version):
    return set((HERE / f"flags-{version}.txt").read_text().split())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("gpus", "given"),
    [
        ("2x NVIDIA L40S", {}),
        ("4x NVIDIA B200", {"api_key": "k", "text_only": True, "tools": False, "media_domains": "a.example"}),
        ("1x NVIDIA A100-SXM4-80GB", {"tls_cert": "c.pem", "tls_key": "k.pem", "media_open": True, "ui": False}),
        ("none", {"model": "tryout-gemma-3-270m"}),
    ],
)
def test_both_versions_know_what_is_written(version, gpus, given):
    settings = ServeSettings.load(None, **given)
    hardware = parse_gpus(gpus)
    settled = settle(settings, gpu=bool(hardware.gpus))
    plan = settled.plan(hardware)
    assert plan.fits, plan.reason
    words = settled.command(plan, Path("vllm")).argv
    assert {word for word in words if word.startswith("-")} <= known(version)
    assert str(GEMMA_TEMPLATE) in words


@pytest.mark.parametrize("version", VERSIONS)
def test_every_beginning_that_means_a_refused_flag_is_refused_and_no_other_flag_is(version):
    flags = known(version)
    for flag in SAID_BY_SETTINGS:
        for length in range(len("--x"), len(flag) + 1):
            beginning = flag[:length]
            if {other for other in flags if other.startswith(beginning)} == {flag}:  # argparse takes it for that
                assert refused([beginning]), beginning
    assert {flag for flag in flags if refused([flag])} == set(SAID_BY_SETTINGS)
