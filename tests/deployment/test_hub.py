"""The Hub's files are what the settings and the plan say."""

from __future__ import annotations

import json

import pytest

import hub_files
from deployment.pools import POOLS
from tests.deployment.conftest import ROOT

HUB = json.loads((ROOT / ".runpod" / "hub.json").read_text())


@pytest.mark.parametrize(("name", "content"), [("hub.json", hub_files.hub), ("tests.json", hub_files.tests)])
def test_the_files_are_in_step_with_the_settings(name, content):
    written = json.loads((ROOT / ".runpod" / name).read_text())

    assert written == content(), "run `.venv/bin/python runpod/hub_files.py`"


def test_there_is_a_preset_for_every_pool_that_fits():
    pools = HUB["config"]["gpuIds"].split(",")

    assert [preset["name"].rpartition(" ")[2] for preset in HUB["config"]["presets"]] == pools
    assert set(pools) < {pool.id for pool in POOLS}
    assert "AMPERE_24" not in pools


@pytest.mark.parametrize(
    ("name", "original"), [("Dockerfile", "runpod/Dockerfile"), ("handler.py", "runpod/handler.py")]
)
def test_the_hub_finds_one_copy_of_each_file(name, original):
    link = ROOT / ".runpod" / name

    assert link.is_symlink()
    assert not link.readlink().is_absolute()
    assert link.resolve() == ROOT / original
    assert (ROOT / "README.md").is_file()
