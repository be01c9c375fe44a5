"""The image, built and run: buildah with stand-in base images, RunPod's SDK, the emulated platform."""

from __future__ import annotations

import subprocess

import pytest

from emulation.endpoint import Emulator
from tests.support.image import TOKEN, Builder, missing_tools
from tests.support.serving import free_port
from tests.support.worker import MODEL, chat, eventually, run_job
from tests.worker.test_image import arguments

pytestmark = [pytest.mark.slow, pytest.mark.image]

FP8 = "RedHatAI/gemma-3-27b-it-FP8-dynamic"


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    """A builder with both base images; its store is of the size of a few small Debians."""
    assert not missing_tools(), f"apt-get install {' '.join(missing_tools())}"
    builder = Builder(tmp_path_factory.mktemp("buildah"))
    builder.make_bases(arguments())
    return builder


@pytest.fixture(scope="module")
def plain(builder):
    """The image as RunPod's Hub builds it: from `.runpod/`, without weights and without a token."""
    builder.build(".runpod/Dockerfile", "localhost/worker:plain")
    return "localhost/worker:plain"


@pytest.fixture(scope="module")
def baked(builder):
    """The image as `make image BAKE=...` builds it, of a gated model."""
    builder.build(
        "runpod/Dockerfile", "localhost/worker:baked",
        "--build-arg", f"BAKE={MODEL}", "--secret", "id=hf_token,env=HF_TOKEN",
    )  # fmt: skip
    return "localhost/worker:baked"


async def answers(platform, container, tmp_path, volume=None, **settings):
    """Start the image's worker, ask a question, and return (answer, worker's log, vLLM's process)."""
    env = platform.worker_env() | {
        "SERVE_PORT": str(free_port()), "SERVE_GPUS": "1x NVIDIA L40S", "SERVE_MODEL": MODEL, "HF_TOKEN": "hf_of_the_run",
        "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true", "RUNPOD_SKIP_GPU_CHECK": "true", **settings,
    }  # fmt: skip
    log = tmp_path / "worker.log"
    with container.running(log, env, volume) as main:
        await eventually(lambda: platform.workers.taking.is_set() or not main.is_running(), within=120)
        job = await run_job(platform, chat(stream=False), within=60)
        vllm = next(item for item in main.children(recursive=True) if "serve" in item.cmdline())
        # The worker, as the image's user; buildah's own processes are root's.
        assert vllm.uids().real == 10001
        assert vllm.parent().uids().real == 10001
        return job.view(), log.read_text(), vllm.environ() | {"argv": " ".join(vllm.cmdline())}


async def test_the_hub_s_image_answers_and_says_that_the_volume_is_closed(builder, plain, tmp_path):
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o755)  # root's
    with builder.container(plain) as container:
        async with Emulator() as platform:
            view, log, vllm = await answers(platform, container, tmp_path, volume)
        assert view["status"] == "COMPLETED", log
        assert "Paris" in str(view["output"])
        assert "cannot be written by user 10001 (Permission denied)" in log
        assert FP8 in vllm["argv"]
        assert "HF_HUB_OFFLINE" not in vllm
        assert "HF_HUB_CACHE" not in vllm
        assert list(volume.iterdir()) == []


async def test_an_open_volume_is_used(builder, plain, tmp_path):
    volume = tmp_path / "volume"
    volume.mkdir()
    volume.chmod(0o777)
    with builder.container(plain) as container:
        async with Emulator() as platform:
            view, log, vllm = await answers(platform, container, tmp_path, volume)
        assert view["status"] == "COMPLETED", log
        assert "WARNING" not in log
        assert vllm["HF_HUB_CACHE"] == "/runpod-volume/huggingface-cache/hub"


def test_everything_is_compiled_and_the_health_check_runs(builder, plain):
    with builder.container(plain) as container:
        for package in ("vllm", "torch", "transformers"):
            assert list((container.root / "usr/lib/python3/dist-packages" / package).rglob("*.pyc"))
        kit = container.root / "opt" / "kit"
        assert {path.name for path in kit.iterdir()} == {
            ".venv", "client", "constraints.txt", "pyproject.toml", "runpod", "serving",
        }  # fmt: skip
        assert list((kit / "serving").rglob("launch.*.pyc"))
        assert list((kit / "runpod").rglob("handler.*.pyc"))
        check = container.config["Healthcheck"]["Test"]
        assert check[0] == "CMD"
        asked = subprocess.run(container.command(*check[1:], env={"SERVE_PORT": str(free_port())}), check=False)
        assert asked.returncode == 1  # curl was there to ask, and nobody answered


@pytest.mark.parametrize(("gpus", "checkpoint"), [("1x NVIDIA H100 80GB HBM3", MODEL), ("1x NVIDIA L40S", FP8)])
async def test_baked_weights_are_used_offline_where_the_plan_takes_them(builder, baked, tmp_path, gpus, checkpoint):
    with builder.container(baked) as container:
        async with Emulator() as platform:
            view, log, vllm = await answers(platform, container, tmp_path, SERVE_GPUS=gpus)
        assert view["status"] == "COMPLETED", log
        assert checkpoint in vllm["argv"]
        assert vllm.get("HF_HUB_OFFLINE") == ("1" if checkpoint == MODEL else None)
        assert (f"the image holds {MODEL}, and the plan takes {FP8}" in log) == (checkpoint == FP8)


def test_the_token_of_the_build_is_in_no_file_of_the_image(builder, baked):
    with builder.container(baked) as container:
        found = subprocess.run(
            ["grep", "-rlF", TOKEN, str(container.root)], capture_output=True, text=True, check=False
        )
        # The stand-in `hf` compares with it; nothing else may know it.
        assert found.stdout.split() == [str(container.root / "usr/local/bin/hf")]
        assert TOKEN not in str(container.config)
