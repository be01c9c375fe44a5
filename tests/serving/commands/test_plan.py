"""`plan`, `plan-table` and `doctor` as a user runs them."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from serving.commands.plan import JSON_KEYS
from tests.support import fake_vllm
from tests.support.serving import ROOT, clean_environment, free_port


def run(*arguments, **settings):
    return subprocess.run(
        [sys.executable, "-m", "serving", *arguments],
        cwd=ROOT,
        env=clean_environment(**settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_json_is_the_plan_and_nothing_else():
    done = run("plan", "--json", "--gpus", "1x H100")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert tuple(found) == JSON_KEYS
    assert found["fits"] is True
    assert set(found["concurrency"]) == {"2048", "8192", "32768", "131072"}
    assert found["args"][0] == found["checkpoint"] == "google/gemma-3-27b-it"


@pytest.mark.parametrize(
    ("gpus", "status"),
    [
        ("2x NVIDIA L40S, 1x H100", 0),
        ("1x 79.2GiB sm90 free=40GiB", 0),
        ("3x H100", 0),
        ("1x NVIDIA H100 80GB HBM3 MIG 3g.40gb", 0),
        ("1x Mystery 9000 48GiB", 0),
        ("1x Tesla T4", 3),
        ("", 0),  # the try-out model
        ("0x H100", 0),
        ("banana", 2),
        ("1x A100", 2),
        ("1x 79.2GiB sm90 free=", 2),
        ("x" * 500, 2),
    ],
)
def test_any_hardware_gets_an_answer_and_no_traceback(gpus, status):
    done = run("plan", "--gpus", gpus, *(("--json",) if status == 3 else ()))
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == (1 if status == 2 else 0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--context", "0"), "--context='0' is not allowed"),
        (("--context", "much"), "--context='much' is not allowed"),
        (("--precision", "fp16"), "--precision='fp16' is not allowed"),
        (("--model", "./nowhere"), "there is no such folder"),
    ],
)
def test_options_that_make_no_sense_are_one_sentence(arguments, said):
    done = run("plan", "--gpus", "1x H100", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_model_that_is_not_here_without_a_network_is_one_sentence():
    done = run("plan", "--gpus", "1x H100", "--model", "nobody/knows", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1
    assert "--model='nobody/knows' is not known here, and http://127.0.0.1:9 cannot be read" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_options_win_over_the_settings_and_extra_arguments_over_both():
    settings = {"SERVE_GPUS": "1x L4", "SERVE_CONTEXT": "8192", "SERVE_PRECISION": "bf16"}
    assert run("plan", "--json", **settings).returncode == 3
    done = run("plan", "--json", "--gpus", "1x H100", "--precision", "int4", "--context", "64k", **settings)
    assert json.loads(done.stdout)["precision"] == "int4"
    extra = "--max-model-len=16k --max-num-batched-tokens 4096 --kv-cache-dtype fp8 --seed 3"
    found = json.loads(run("plan", "--json", "--gpus", "1x H100", SERVE_EXTRA_ARGS=extra).stdout)
    assert (found["max_model_len"], found["max_num_batched_tokens"]) == (16_000, 4096)


@pytest.mark.parametrize(
    "extra", ["--max-model-len many", "--gpu-memory-utilization 2", "--kv-cache-dtype nvfp4", "-pp 2", "--max-num-seqs"]
)
def test_extra_arguments_that_cannot_be_planned_are_one_sentence(extra):
    done = run("plan", "--gpus", "1x H100", SERVE_EXTRA_ARGS=extra)
    assert done.returncode == 2
    assert done.stderr.startswith("error: SERVE_EXTRA_ARGS: ")
    assert len(done.stderr.splitlines()) == 1


def test_neither_torch_nor_vllm_nor_rich_is_imported_for_machines():
    code = (
        "import sys; from serving.__main__ import main; status = main(['plan', '--json', '--gpus', '8x H100']); "
        "sys.exit(status or sorted({'torch', 'vllm', 'rich', 'transformers', 'runpod', 'openai'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=clean_environment(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_person_sees_the_memory_the_concurrency_and_the_command():
    done = run("plan", "--gpus", "2x H100")
    for part in ("weights 25.7", "KV cache 44.9", "Requests at once", "18.5", "2 GPUs  share the model"):
        assert part in done.stdout
    assert "vllm serve google/gemma-3-27b-it --dtype bfloat16 --tensor-parallel-size 2" in done.stdout
    misfit = run("plan", "--gpus", "1x L4").stdout
    assert "Does not fit." in misfit
    assert "2x NVIDIA L4 (fp8)" in misfit


def test_the_table_has_every_known_gpu():
    done = run("plan-table")
    assert done.returncode == 0
    for name in ("NVIDIA L4", "NVIDIA A100-SXM4-80GB", "NVIDIA B200"):
        assert name in done.stdout


@pytest.fixture
def machine(tmp_path):
    """Settings for a machine with a stand-in engine and a GPU that is only described."""
    return {
        "SERVE_ENGINE": str(fake_vllm.install(tmp_path)),
        "SERVE_GPUS": "1x H100",
        "SERVE_PORT": str(free_port()),
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_ENDPOINT": f"http://127.0.0.1:{free_port()}",  # nobody is there: offline
    }


def checks(done):
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def test_doctor_says_what_is_missing_and_ends_with_the_plan(machine):
    done = run("doctor", **machine)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "HF_TOKEN is not set" in done.stdout
    assert done.stdout.rstrip().splitlines()[-1].startswith("vllm serve google/gemma-3-27b-it")


def test_doctor_offline_is_said_and_not_failed(machine):
    done = run("doctor", "--json", HF_TOKEN="hf_a_secret", **machine)
    assert done.returncode == 0
    assert checks(done)["access"]["status"] == "unknown"
    assert "offline" in checks(done)["access"]["detail"]
    assert "hf_a_secret" not in done.stdout + done.stderr


def test_doctor_fails_where_serve_would(machine):
    for change, name in (
        ({"SERVE_GPUS": "1x L4"}, "plan"),
        ({"SERVE_ENGINE": "/nowhere/vllm"}, "engine"),
        ({"SERVE_MODEL": "nobody/knows"}, "plan"),
    ):
        done = run("doctor", "--json", **(machine | change))
        assert done.returncode == 1
        assert checks(done)[name]["status"] == "fail"
        assert checks(done)[name]["fix"]
        assert "Traceback" not in done.stderr


def test_doctor_counts_what_is_cached_already(machine, tmp_path):
    folder = tmp_path / "hub" / "models--google--gemma-3-27b-it" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    with (folder / "model-00001.safetensors").open("wb") as file:
        file.truncate(20_000_000_000)
    assert "20 GB are cached already" in checks(run("doctor", "--json", **machine))["disk"]["detail"]
    with (folder / "model-00002.safetensors").open("wb") as file:
        file.truncate(34_860_000_000)
    assert "in the cache" in checks(run("doctor", "--json", **machine))["weights"]["detail"]


def test_doctor_sees_a_cache_from_the_future(machine, tmp_path):
    cache = tmp_path / "hub"
    cache.mkdir()
    (cache / "models--a--b").mkdir()
    os.utime(cache / "models--a--b", (4e9, 4e9))
    assert checks(run("doctor", "--json", **machine))["clock"]["status"] == "warn"


class Hub(BaseHTTPRequestHandler):
    """A hub that gives gated files to one token alone."""

    def do_HEAD(self):
        self.send_response(200 if self.headers["Authorization"] == "Bearer hf_good" else 403)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def hub():
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_doctor_asks_the_hub_whether_the_token_opens_the_gate(machine, hub, tmp_path):
    machine |= {"HF_ENDPOINT": hub}
    refused = checks(run("doctor", "--json", HF_TOKEN="hf_bad", **machine))["access"]
    assert (refused["status"], "refuses" in refused["detail"]) == (
        "warn",
        True,
    )  # SERVE_GPUS: not this machine's matter
    assert checks(run("doctor", "--json", HF_TOKEN="hf_good", **machine))["access"]["status"] == "ok"
    (tmp_path / "token").write_text("hf_good\n")  # as `hf auth login` leaves it
    assert checks(run("doctor", "--json", HF_TOKEN_PATH=str(tmp_path / "token"), **machine))["access"]["status"] == "ok"
