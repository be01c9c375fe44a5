"""Weights and compiled code on what RunPod mounts."""

import fcntl
import json

import pytest

from tests.support.worker import MODEL, platform_and_worker
from worker.volume import COMPILED, HUB, CompiledCode, Weights, holds


def cache_model(hub, model=MODEL, shards=("model-1.safetensors", "model-2.safetensors"), missing=()):
    """Lay a model into a Hugging Face cache, as its library does: links into a folder of blobs."""
    folder = hub / f"models--{model.replace('/', '--')}"
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    (folder / "blobs").mkdir()
    index = {"weight_map": {f"layer.{i}": shard for i, shard in enumerate(shards)}}
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


def test_a_volume_that_is_full_or_read_only_does_not_end_the_worker(tmp_path):
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume" / COMPILED).write_text("a file where the folder should be")
    (tmp_path / "local").mkdir()
    CompiledCode(tmp_path / "volume", ["x"], tmp_path / "local").save()


async def test_a_worker_with_a_cached_model_says_so(tmp_path):
    cache_model(tmp_path / "volume" / HUB)
    async with platform_and_worker(tmp_path, SERVE_PRECISION="bf16") as (_, worker):
        assert f"{MODEL} is in {tmp_path}/volume/{HUB}: the hub is not asked" in worker.log
        environment = worker.vllm().environ()
        assert environment["HF_HUB_OFFLINE"] == "1"
        assert environment["HF_HUB_CACHE"] == str(tmp_path / "volume" / HUB)
