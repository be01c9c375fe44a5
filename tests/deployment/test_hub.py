"""The Hub's files are what the settings and the plan say."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from deployment import hub
from serving.hardware.rented import POOLS
from tests.deployment.conftest import ROOT
from tests.support.serving import clean_environment

HUB = json.loads((ROOT / ".runpod" / "hub.json").read_text())
TESTS = json.loads((ROOT / ".runpod" / "tests.json").read_text())


@pytest.mark.parametrize("name", sorted(hub.files()))
def test_the_files_are_in_step_with_their_sources_and_no_links(name):
    file = ROOT / ".runpod" / name

    assert file.read_text() == hub.files()[name], "run `make generated`"
    assert not file.is_symlink()  # BuildKit does not follow one out of the folder


def test_nothing_else_lies_there():
    assert {path.name for path in (ROOT / ".runpod").iterdir()} == set(hub.files())
    assert (ROOT / "README.md").is_file()


def test_writing_replaces_a_link(tmp_path, monkeypatch):
    (tmp_path / "original").write_text("as it was")
    (tmp_path / "Dockerfile").symlink_to(tmp_path / "original")
    monkeypatch.setattr(hub, "FOLDER", tmp_path)
    hub.write()

    assert (tmp_path / "original").read_text() == "as it was"
    assert (tmp_path / "Dockerfile").read_text() == (ROOT / "runpod" / "Dockerfile").read_text()


def test_the_hub_s_handler_is_the_worker():
    handler = ROOT / ".runpod" / "handler.py"
    ran = subprocess.run([sys.executable, handler], env=clean_environment(), capture_output=True, text=True)

    assert ran.returncode == 2
    assert "There are no jobs here" in ran.stderr


def test_there_is_a_preset_for_every_pool_that_fits():
    pools = HUB["config"]["gpuIds"].split(",")

    assert [preset["name"].rpartition(" ")[2] for preset in HUB["config"]["presets"]] == pools
    assert set(pools) < {pool.id for pool in POOLS}
    assert "AMPERE_24" not in pools


def test_every_input_has_the_type_of_its_default():
    kinds: dict[str, Any] = {"number": (int, float), "boolean": bool, "string": str}
    inputs = {entry["key"]: entry["input"] for entry in HUB["config"]["env"] if "input" in entry}

    for key, item in inputs.items():
        assert isinstance(item["default"], kinds[item["type"]]), key
        assert item["type"] == "boolean" or not isinstance(item["default"], bool), key
    assert inputs["WORKER_DRAIN_TIMEOUT"]["type"] == "number"
    assert inputs["WORKER_DRAIN_TIMEOUT"]["default"] == 25


def test_the_hub_s_test_is_of_a_small_model_that_needs_no_token_and_has_time_to_start():
    (question,) = TESTS["tests"]
    env = {entry["key"]: entry["value"] for entry in TESTS["config"]["env"]}

    assert question["timeout"] == 600_000
    assert "270m" in env["SERVE_MODEL"]
    assert "HF_TOKEN" not in env
    assert not env["SERVE_MODEL"].startswith("google/")
