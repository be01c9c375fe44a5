"""`plan`, `status`, `logs`, `rollback`, `down`: what they show, and what they leave."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from tests.deployment.conftest import ROOT
from tests.deployment.fake_runpod import Failure
from tests.support.serving import clean_environment

UP = ("up", "--yes", "--no-wait")


# ---- plan


def test_plan_touches_nothing(deploy, runpod):
    ran = deploy("plan")

    assert ran.status == 0, ran.text
    assert {method for method, _, _ in runpod.requests} == {"GET"}
    assert "Create endpoint gemma3-27b" in ran.out


def test_plan_shows_the_catalogue_s_prices(deploy, runpod):
    shown = {pool["pool"]: pool["usd_per_gpu_hour"] for pool in deploy("plan", "--json").json["pools"]}
    catalogue = {gpu["pool"]: gpu["price"].get("serverless") for gpu in runpod.gpus if gpu["pool"]}

    assert shown == catalogue


def test_plan_without_a_key_uses_the_shipped_prices(deploy, runpod):
    del deploy.env["RUNPOD_API_KEY"]
    ran = deploy("plan", "--json")

    assert ran.status == 0
    assert ran.json["prices"] == "shipped"
    assert {pool["pool"]: pool["usd_per_gpu_hour"] for pool in ran.json["pools"]}["AMPERE_80"] == pytest.approx(
        2.74, abs=0.01
    )
    assert runpod.requests == []


def test_plan_works_when_nobody_answers(deploy):
    ran = deploy("plan", RUNPOD_API_URL="http://127.0.0.1:9/v2")

    assert ran.status == 0, ran.text
    assert "does not answer" in ran.out
    assert "shipped prices" in ran.out


def test_plan_agrees_with_make_plan(deploy):
    pools = deploy("plan", "--json", SERVE_CONTEXT="16384").json["pools"]
    for pool in (pools[0], pools[-1]):
        command = [sys.executable, "-m", "serving", "plan", "--json", "--context", "16384"]
        command += ["--gpus", f"{pool['gpu_count']}x {pool['gpu']}"]
        plan = json.loads(
            subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True).stdout
        )
        assert pool["fits"] == plan["fits"]
        assert pool["checkpoint"] == plan["checkpoint"]
        assert pool["max_model_len"] == plan["max_model_len"]


def test_a_pool_is_planned_for_its_smallest_card(deploy):
    pools = {pool["pool"]: pool for pool in deploy("plan", "--json").json["pools"]}

    assert pools["AMPERE_24"]["gpu"] == "NVIDIA L4"
    assert pools["AMPERE_48"]["gpu"] == "NVIDIA A40"


def test_the_cheapest_pool_that_fits_and_can_be_had_is_chosen(deploy, runpod):
    assert deploy("plan", "--json").json["chosen"] == ["ADA_24", "AMPERE_48", "ADA_48_PRO"]
    next(gpu for gpu in runpod.gpus if gpu["pool"] == "ADA_24")["availability"] = "NONE"
    assert deploy("plan", "--json").json["chosen"] == ["AMPERE_48", "ADA_48_PRO", "AMPERE_80"]
    deploy(*UP)
    next(gpu for gpu in runpod.gpus if gpu["pool"] == "ADA_24")["availability"] = "HIGH"
    assert deploy("plan", "--json").json["changes"] == []


@pytest.mark.parametrize(
    ("settings", "status", "said"),
    [
        ({"DEPLOY_GPU_POOLS": "AMPERE_80,NONSENSE"}, 2, "NONSENSE is no pool"),
        ({"DEPLOY_GPU_POOLS": "AMPERE_24"}, 3, "AMPERE_24 may give 1x NVIDIA L4"),
        (
            {"DEPLOY_IDLE_TIMEOUT": "0"},
            2,
            "DEPLOY_IDLE_TIMEOUT='0' is not allowed: it must be a number of seconds, 1 to 3600",
        ),
        ({"DEPLOY_WORKERS_MIN": "9"}, 2, "at most DEPLOY_WORKERS_MAX (3)"),
        ({"DEPLOY_MODE": "both"}, 2, "it must be queue or load-balancer"),
        ({"DEPLOY_FLASHBOOT": "maybe"}, 2, "it must be on, off or priority"),
        ({"RUNPOD_API_URL": "http://api.example/v2"}, 2, "it must be an https:// address"),
        ({"SERVE_CONTEXT": "many"}, 2, "SERVE_CONTEXT='many'"),
        ({"SERVE_MODEL": "/tmp"}, 2, "is a folder of this machine"),
    ],
)
def test_a_bad_value_is_one_sentence(deploy, settings, status, said):
    ran = deploy("plan", **settings)

    assert ran.status == status, ran.text
    assert said in ran.err
    assert ran.err.count("\n") == 1


# ---- without a key, without an endpoint, without an answer


@pytest.mark.parametrize("command", ["up", "status", "logs", "rollback", "down"])
def test_without_a_key_one_sentence(deploy, command):
    del deploy.env["RUNPOD_API_KEY"]
    process = deploy.start(command)
    out, err = process.communicate(timeout=30)

    assert process.returncode == 2
    assert out == ""
    assert err == (
        "deploy: RUNPOD_API_KEY is not set: make a key in RunPod's console (Settings, API Keys) and put it into .env.\n"
    )


@pytest.mark.parametrize("command", ["status", "logs", "rollback"])
def test_without_an_endpoint_one_sentence(deploy, command):
    ran = deploy(command)

    assert ran.status == 1
    assert ran.err == "deploy: There is no endpoint called 'gemma3-27b': `make deploy` creates it.\n"


def test_a_wrong_key_is_said(deploy):
    ran = deploy("status", RUNPOD_API_KEY="rpa_another_key_altogether")

    assert ran.status == 1
    assert "RunPod does not accept RUNPOD_API_KEY" in ran.err


# ---- status and logs


def test_status_is_one_screen(deploy, runpod):
    runpod.boot = runpod.boot[-1:]
    deploy("up", "--yes")
    ran = deploy("status")

    assert ran.status == 0, ran.text
    assert "1 idle (min 0, max 3)" in ran.out
    assert "1 completed" in ran.out
    assert "$1.50" in ran.out
    assert "worker1" in ran.out
    assert ran.out.count("\n") < 24


def test_what_does_not_answer_is_unknown(deploy, runpod):
    deploy(*UP)
    runpod.only["requestUrls"]["health"] = "http://127.0.0.1:9/health"
    runpod.failures.append(Failure("GET", "/billing", status=403))
    ran = deploy("status", "--json")

    assert ran.status == 0, ran.text
    assert ran.json["jobs"] is None
    assert ran.json["cost_usd"] is None


def test_watch_goes_on_until_ctrl_c(deploy, runpod):
    deploy(*UP)
    process = deploy.start("status", "--watch")
    assert process.stdout is not None
    pictures = (line for line in process.stdout if "cost so far" in line)
    next(pictures)
    next(pictures)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)

    assert (process.returncode, err) == (130, "")


def test_logs_streams_a_worker_s_log(deploy, runpod):
    runpod.boot = runpod.boot[-1:]
    deploy("up", "--yes")
    runpod.log += ["the token is hf_0123456789abcdef"]
    ran = deploy("logs", HF_TOKEN="hf_0123456789abcdef")

    assert ran.status == 0
    assert "line 0" in ran.out
    assert "line 2" in ran.out
    assert deploy("logs", "--tail", "1").out.count("line ") == 0
    assert "No worker 'nobody' runs" in deploy("logs", "--worker", "nobody").err
    assert deploy("logs", "--tail", "-1").status == 2


def test_logs_without_a_worker(deploy, runpod):
    deploy(*UP)
    ran = deploy("logs")

    assert ran.status == 1
    assert "No worker runs" in ran.err


# ---- rollback


def test_rollback_goes_back_to_the_image_and_the_settings_before(deploy, runpod):
    deploy(*UP, SERVE_API_KEY="a-key-of-the-server")
    before = json.loads(json.dumps(runpod.only))
    deploy(
        *UP,
        DEPLOY_IMAGE="registry.example/gemma-worker:2.0",
        DEPLOY_WORKERS_MAX="4",
        DEPLOY_DATA_CENTERS="EU-RO-1",
        SERVE_TOOLS="1",
        SERVE_API_KEY="another-key-of-the-server",
    )
    assert runpod.only != before
    ran = deploy("rollback", "--dry-run")
    assert "gemma-worker:1.0" in ran.out
    assert "a-key-of-the-server" not in ran.text
    ran = deploy("rollback", "--yes", "--no-wait")

    assert ran.status == 0, ran.text
    assert runpod.only == before


def test_rollback_reads_the_platform_s_inner_names(deploy, runpod):
    deploy(*UP)
    runpod.releases["ep1"][0]["diff"] = [
        {"field": "template.imageName", "old": "registry.example/gemma-worker:0.9", "new": "x"},
        {"field": "template.env", "old": [{"key": "A", "value": "1"}], "new": []},
        {"field": "gpuIds", "old": "AMPERE_80,ADA_80_PRO,-NVIDIA H100 PCIe", "new": "ADA_24"},
        {"field": "gpuCount", "old": 2, "new": 1},
        {"field": "workersMax", "old": 7, "new": 3},
        {"field": "locations", "old": "EU-RO-1,US-KS-2", "new": None},
        {"field": "scalerType", "old": "REQUEST_COUNT", "new": "QUEUE_DELAY"},
        {"field": "scalerValue", "old": 12, "new": 4},
        {"field": "flashBootType", "old": "OFF", "new": "FLASHBOOT"},
    ]
    ran = deploy("rollback", "--yes", "--no-wait")

    assert ran.status == 0, ran.text
    live = runpod.only
    assert live["image"] == "registry.example/gemma-worker:0.9"
    assert live["env"] == {"A": "1"}
    assert live["gpu"]["pools"] == ["AMPERE_80", "ADA_80_PRO"]
    assert live["gpu"]["excludedTypes"] == ["NVIDIA H100 PCIe"]
    assert live["gpu"]["count"] == 2
    assert live["workers"] == {"min": 0, "max": 7}
    assert live["scaling"] == {"type": "REQUEST_COUNT", "requestCount": 12}
    assert live["dataCenterIds"] == ["EU-RO-1", "US-KS-2"]
    assert live["flashboot"] == "OFF"


def test_rollback_refuses_half_a_step(deploy, runpod):
    deploy(*UP)
    runpod.releases["ep1"][0]["diff"] = [
        {"field": "template.imageName", "old": "a:1", "new": "b:2"},
        {"field": "template.startSsh", "old": False, "new": True},
    ]
    ran = deploy("rollback", "--yes", "--no-wait")

    assert ran.status == 1
    assert "'template.startSsh'" in ran.err
    assert runpod.calls("PATCH") == []


def test_rollback_of_the_first_release(deploy, runpod):
    deploy(*UP)
    ran = deploy("rollback", "--yes")

    assert ran.status == 1
    assert "no release to go back to" in ran.err


# ---- down


def test_down_leaves_nothing(deploy, runpod):
    deploy(*UP)
    ran = deploy("down", "--yes")

    assert ran.status == 0, ran.text
    assert runpod.endpoints == {}
    assert "Nothing is left that costs money." in ran.out
    assert not (deploy.folder / ".env.runpod").exists()
    assert "nothing to delete" in deploy("down", "--yes").out


def test_down_asks_first(deploy, runpod):
    deploy(*UP)
    ran = deploy("down")

    assert ran.status == 2
    assert "gemma3-27b (ep1)" in ran.out
    assert "add --yes" in ran.err
    assert len(runpod.endpoints) == 1
    assert deploy("down", "--dry-run").status == 0
    assert len(runpod.endpoints) == 1


def test_down_tells_of_a_volume_that_is_left_and_can_delete_it(deploy, runpod):
    runpod.add_volume("vol1")
    deploy(*UP, DEPLOY_NETWORK_VOLUME="vol1")
    ran = deploy("down", "--yes")
    assert "volume weights (vol1, 100 GB, about $7.00 a month) is left" in ran.out
    assert list(runpod.volumes) == ["vol1"]

    assert deploy("down", "--yes", "--volume").status == 0
    assert runpod.volumes == {}


def test_a_delete_that_fails_is_repeated(deploy, runpod):
    deploy(*UP)
    runpod.failures.append(Failure("DELETE", "/serverless", status=500, carried_out=True))
    ran = deploy("down", "--yes")

    assert ran.status == 0, ran.text
    assert runpod.endpoints == {}
