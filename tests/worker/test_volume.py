"""Weights and compiled code on what RunPod mounts."""

import codecs
import contextlib
import fcntl
import json
import os
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.hardware.parse import parse_gpus
from serving.model.hub_cache import holds
from serving.model.resolve import resolve
from serving.planning.plan import PlanRequest, make_plan
from serving.settings import ServeSettings
from tests.support.worker import MODEL, platform_and_worker
from worker.startup import use_weights
from worker.volume import COMPILED, HUB, CompiledCode, Weights


def cache_model(hub, model=MODEL, shards=("model-1.safetensors", "model-2.safetensors"), missing=()):
    """Lay a model into a Hugging Face cache, as its library does: links into a folder of blobs."""
    folder = hub / f"models--{model.replace('/', '--')}"
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    (folder / "blobs").mkdir()
    size = 54_860_000_000 if model == MODEL else 29_000_000_000  # as bf16 and fp8 of the 27B have
    weight_map = {f"layer.{i}": shard for i, shard in enumerate(shards)}
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    for name in ("config.json", "model.safetensors.index.json", *shards):
        blob = folder / "blobs" / name
        if name not in missing:
            blob.write_text(json.dumps(index if "index" in name else {}))
        (snapshot / name).symlink_to(blob)


def test_a_whole_model_is_used_without_asking_the_hub(tmp_path):
    cache_model(tmp_path / HUB)
    wanted = {"HF_HUB_CACHE": str(tmp_path / HUB), "HF_HUB_OFFLINE": "1"}
    assert Weights(tmp_path, tmp_path / "no-image").env(MODEL) == wanted


@pytest.mark.parametrize("missing", ["model-2.safetensors", "config.json", "model.safetensors.index.json"])
def test_a_half_downloaded_model_is_not_taken_for_a_whole_one(tmp_path, missing):
    cache_model(tmp_path / HUB, missing=[missing])
    assert Weights(tmp_path, tmp_path / "no-image").env(MODEL) == {"HF_HUB_CACHE": str(tmp_path / HUB)}


def test_a_volume_does_not_hide_weights_in_the_image(tmp_path):
    volume, image = tmp_path / "volume", tmp_path / "image"
    volume.mkdir()
    cache_model(image)
    assert Weights(volume, image).env(MODEL)["HF_HUB_CACHE"] == str(image)
    assert Weights(volume, image).env("another/model") == {"HF_HUB_CACHE": str(volume / HUB)}


@contextlib.contextmanager
def as_the_image_s_user():
    """Run as another user than root where the tests are root's, to whom no folder is closed."""
    root = os.geteuid() == 0
    codecs.lookup("ascii")  # loaded now: root's Python may lie where the other user cannot read
    if root:
        os.seteuid(10001)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def volume():
    """A volume that every user can reach: pytest's own folders are closed to all but one."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
        for path in Path(folder).rglob("*"):
            path.chmod(0o755)


@pytest.mark.parametrize("closed", ["", "huggingface-cache", str(HUB), f"{HUB}/models--a--b", f"{HUB}/.locks"])
def test_a_volume_that_cannot_be_written_is_said_and_not_used(tmp_path, volume, closed):
    (volume / closed).mkdir(parents=True, exist_ok=True)
    for path in (volume, *volume.rglob("*")):
        path.chmod(0o777)
    (volume / closed).chmod(0o555)
    weights = Weights(volume, tmp_path / "no-image")
    with as_the_image_s_user():
        assert weights.env("a/b") == {}
        (said,) = weights.about("a/b")
    assert said.startswith("WARNING: the volume")
    assert "Permission denied" in said
    assert "a/b is downloaded" in said


def test_a_volume_that_is_open_is_used_without_a_word(tmp_path, volume):
    volume.chmod(0o777)
    weights = Weights(volume, tmp_path / "no-image")
    with as_the_image_s_user():
        assert weights.env("a/b") == {"HF_HUB_CACHE": str(volume / HUB)}
        assert list(weights.about("a/b")) == []


def test_a_closed_volume_that_holds_the_model_is_a_cached_model_of_runpod(tmp_path, volume):
    cache_model(volume / HUB)
    with as_the_image_s_user():
        assert Weights(volume, tmp_path).env(MODEL) == {"HF_HUB_CACHE": str(volume / HUB), "HF_HUB_OFFLINE": "1"}


def test_a_place_that_was_named_is_left_to_be_the_one(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", "/runpod-volume/mine")
    assert Weights(tmp_path, tmp_path / "no-image").env("a/b") == {}


def test_other_weights_in_the_image_are_said(tmp_path):
    cache_model(tmp_path / "image")
    (said,) = Weights(tmp_path / "none", tmp_path / "image").about("another/model")
    assert f"the image holds {MODEL}, and the plan takes another/model" in said


@given(
    st.sets(st.sampled_from([MODEL, "RedHatAI/gemma-3-27b-it-FP8-dynamic"])),
    st.sets(st.sampled_from([MODEL, "RedHatAI/gemma-3-27b-it-FP8-dynamic"])),
    st.sampled_from(["auto", "bf16", "fp8", "int4"]),
    st.sampled_from(["1x NVIDIA L40S", "1x NVIDIA H100 80GB HBM3", "1x NVIDIA GeForce RTX 4090"]),
)
@settings(max_examples=40, deadline=None)
def test_offline_is_for_what_is_really_there(baked, cached, precision, gpus):
    with tempfile.TemporaryDirectory() as name, mock.patch.dict(os.environ, clear=True):
        folder = Path(name)
        (folder / "volume").mkdir()
        for hub, models in ((folder / "image", baked), (folder / "volume" / HUB, cached)):
            for model in models:
                cache_model(hub, model)
        serve = ServeSettings(_env_file=None, model=MODEL, precision=precision, gpus=gpus)  # type: ignore[call-arg]
        said = use_weights(serve, Weights(folder / "volume", folder / "image"))
        checkpoint = make_plan(
            resolve(MODEL), parse_gpus(gpus), PlanRequest.from_settings(serve)
        ).checkpoint  # as `prepare` plans
        if checkpoint is None:  # nothing fits
            assert said == ()
            assert not os.environ
            return
        hub = Path(os.environ["HF_HUB_CACHE"])

        assert ("HF_HUB_OFFLINE" in os.environ) == (checkpoint in baked | cached)
        assert ("HF_HUB_OFFLINE" in os.environ) == holds(hub, checkpoint)
        assert (hub == folder / "image") == (checkpoint in baked)
        assert any("the hub is not asked" in line for line in said) == ("HF_HUB_OFFLINE" in os.environ)


def test_without_a_volume_nothing_changes(tmp_path):
    assert Weights(tmp_path / "none", tmp_path / "no-image").env(MODEL) == {}
    assert not holds(tmp_path, "../..")


def test_compiled_code_survives_the_worker(tmp_path):
    volume = tmp_path / "volume"
    volume.mkdir()
    first, second = (CompiledCode(volume, ["args", "gpu"], tmp_path / name) for name in ("one", "two"))
    assert first.restore() == {"VLLM_CACHE_ROOT": str(tmp_path / "one")}
    (tmp_path / "one" / "torch_compile_cache").mkdir(parents=True)
    (tmp_path / "one" / "torch_compile_cache" / "graph.py").write_text("compiled")
    first.save()
    second.restore()
    assert (tmp_path / "two" / "torch_compile_cache" / "graph.py").read_text() == "compiled"
    assert not list((volume / COMPILED).glob(".fresh-*"))
    other = CompiledCode(volume, ["args", "another gpu"], tmp_path / "three")
    other.restore()
    assert not (tmp_path / "three").exists()


def test_two_workers_do_not_write_at_the_same_time(tmp_path):
    (tmp_path / "volume" / COMPILED).mkdir(parents=True)
    (tmp_path / "local").mkdir()
    code = CompiledCode(tmp_path / "volume", ["x"], tmp_path / "local")
    with (tmp_path / "volume" / COMPILED / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code.save()
        assert [entry.name for entry in (tmp_path / "volume" / COMPILED).iterdir()] == [".lock"]
    code.save()
    assert len(list((tmp_path / "volume" / COMPILED).iterdir())) == 2


def test_compiled_code_survives_a_volume_that_refuses_modes_and_times(tmp_path, monkeypatch):
    def refused(*_args, **_kwargs):
        raise PermissionError(1, "Operation not permitted")

    volume, local = tmp_path / "volume", tmp_path / "local"
    volume.mkdir()
    (local / "graphs").mkdir(parents=True)
    (local / "graphs" / "graph.py").write_text("compiled")
    for name in ("chmod", "chown", "utime", "setxattr"):  # as a FUSE mount was seen to, for root too
        monkeypatch.setattr(os, name, refused)
    CompiledCode(volume, ["x"], local).save()
    other = CompiledCode(volume, ["x"], tmp_path / "other")
    other.restore()
    assert (tmp_path / "other" / "graphs" / "graph.py").read_text() == "compiled"


def test_a_volume_that_is_full_or_read_only_does_not_end_the_worker(tmp_path):
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume" / COMPILED).write_text("a file where the folder should be")
    (tmp_path / "local").mkdir()
    CompiledCode(tmp_path / "volume", ["x"], tmp_path / "local").save()


async def test_another_checkpoint_than_the_one_that_is_there_is_asked_for(tmp_path):
    cache_model(tmp_path / "volume" / HUB)
    async with platform_and_worker(tmp_path, SERVE_GPUS="1x NVIDIA L40S") as (_, worker):
        vllm = worker.vllm()
        assert "RedHatAI/gemma-3-27b-it-FP8-dynamic" in vllm.cmdline()
        assert "HF_HUB_OFFLINE" not in vllm.environ()
        assert vllm.environ()["HF_HUB_CACHE"] == str(tmp_path / "volume" / HUB)


async def test_a_worker_with_a_cached_model_says_so(tmp_path):
    cache_model(tmp_path / "volume" / HUB)
    async with platform_and_worker(tmp_path, SERVE_PRECISION="bf16") as (_, worker):
        assert f"{MODEL} is in {tmp_path}/volume/{HUB}: the hub is not asked" in worker.log
        environment = worker.vllm().environ()
        assert environment["HF_HUB_OFFLINE"] == "1"
        assert environment["HF_HUB_CACHE"] == str(tmp_path / "volume" / HUB)
