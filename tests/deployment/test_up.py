"""`up`: one endpoint, right the first time, and nothing twice."""

from __future__ import annotations

import signal
import stat
import time

import pytest

from tests.deployment.fake_calls import KEY
from tests.deployment.fake_runpod import Failure

UP = ("up", "--yes", "--no-wait")


def test_creates_the_endpoint_with_every_field_whose_default_is_a_trap(deploy, runpod):
    ran = deploy(*UP)

    assert ran.status == 0, ran.text
    (body,) = runpod.calls("POST", "/serverless")
    assert body["name"] == "gemma3-27b"
    assert body["type"] == "QUEUE"
    assert body["flashboot"] == "FLASHBOOT"
    assert body["timeout"] == 600_000
    assert body["workers"] == {"min": 0, "max": 3, "idleTimeout": 300}
    assert body["scaling"] == {"type": "QUEUE_DELAY", "queueDelay": 4.0}
    assert body["env"]["RUNPOD_INIT_TIMEOUT"] == "1800"
    assert body["env"]["SERVE_MODEL"] == body["env"]["SERVE_SERVED_MODEL_NAME"] == "google/gemma-3-27b-it"
    assert body["disk"] >= 20


def test_shows_the_bound_on_spend_before_anything_is_created(deploy, runpod):
    ran = deploy("up", "--no-wait")

    assert ran.status == 2
    assert "At most $5.70/h (3 workers x 1 GPU x $1.90)" in ran.out
    assert "waits 5 min 00 s (DEPLOY_IDLE_TIMEOUT), which is billed like work: $0.1583 each time" in ran.out
    assert "--yes" in ran.err
    assert runpod.endpoints == {}


def test_the_second_up_changes_nothing(deploy, runpod):
    deploy(*UP)
    ran = deploy(*UP)

    assert ran.status == 0
    assert "nothing to change" in ran.out
    assert len(runpod.calls("POST", "/serverless")) == 1
    assert runpod.calls("PATCH") == []


def test_a_changed_setting_is_one_patch_with_that_field(deploy, runpod):
    changes = {
        "DEPLOY_WORKERS_MAX": ("5", {"workers": {"min": 0, "max": 5, "idleTimeout": 300}}),
        "DEPLOY_IMAGE": ("registry.example/gemma-worker:1.1", {"image": "registry.example/gemma-worker:1.1"}),
        "DEPLOY_SCALER_VALUE": ("8", {"scaling": {"type": "QUEUE_DELAY", "queueDelay": 8.0}}),
        "DEPLOY_FLASHBOOT": ("off", {"flashboot": "OFF"}),
        "DEPLOY_EXECUTION_TIMEOUT": ("900", {"timeout": 900_000}),
        "DEPLOY_DATA_CENTERS": ("EU-RO-1, US-KS-2", {"dataCenterIds": ["EU-RO-1", "US-KS-2"]}),
        "DEPLOY_DISK_GB": ("123", {"disk": 123}),
        "DEPLOY_REGISTRY": ("credential1", {"registry": "credential1"}),
    }
    deploy(*UP)
    for setting, (value, _) in changes.items():
        ran = deploy(*UP, **{setting: value})
        assert ran.status == 0, ran.text
    deploy(*UP)

    assert runpod.calls("PATCH") == [body for _, body in changes.values()]


def test_a_changed_variable_of_the_worker_is_one_patch_of_the_environment(deploy, runpod):
    deploy(*UP, SERVE_TEXT_ONLY="0")
    ran = deploy(*UP, SERVE_TEXT_ONLY="1")

    (body,) = runpod.calls("PATCH")
    assert set(body) == {"env"}
    assert body["env"]["SERVE_TEXT_ONLY"] == "1"
    assert "env.SERVE_TEXT_ONLY" in ran.out


def test_what_the_console_changed_is_changed_back(deploy, runpod):
    deploy(*UP)
    runpod.only["env"]["LEFT_OVER"] = "from the console"
    runpod.only["gpu"]["excludedTypes"] = ["NVIDIA A40"]
    ran = deploy(*UP)

    assert "env.LEFT_OVER" in ran.out
    assert "from the console" not in ran.out
    assert "LEFT_OVER" not in runpod.only["env"]
    assert "excludedTypes" not in runpod.only["gpu"]


def test_only_what_belongs_to_the_worker_travels(deploy, runpod):
    here = {"SERVE_ENGINE": "/opt/vllm", "SERVE_GPUS": "1x NVIDIA L4", "SERVE_HOST": "127.0.0.1", "SERVE_PORT": "9000"}
    ran = deploy(
        *UP, SERVE_LOG_FILE="vllm.log", SERVE_CONTEXT="16384", WORKER_DRAIN_TIMEOUT="50", LLM_TEMPERATURE="0.2",
        MODEL_NAME="org/another", **here,
    )  # fmt: skip

    assert ran.status == 0, ran.text
    told = "MODEL_NAME is a variable of RunPod's own vLLM worker and does nothing here: set SERVE_MODEL."
    assert told in " ".join(ran.text.split())
    env = runpod.only["env"]
    assert not {*here, "SERVE_LOG_FILE", "LLM_TEMPERATURE", "DEPLOY_IMAGE", "RUNPOD_API_KEY"} & env.keys()
    assert env["SERVE_CONTEXT"] == "16384"
    assert env["WORKER_DRAIN_TIMEOUT"] == "50"


def test_the_pool_decides_the_precision_for_all_its_workers(deploy, runpod):
    ran = deploy(*UP, "--json")

    chosen = ran.json
    assert chosen["created"] is True
    assert runpod.only["gpu"]["pools"] == ["ADA_24", "AMPERE_48", "ADA_48_PRO"]
    assert runpod.only["env"]["SERVE_PRECISION"] == "int4"


def test_a_secret_is_named_and_a_token_warned_about(deploy, runpod):
    ran = deploy(*UP, HF_TOKEN="hf_0123456789abcdef")
    assert "HF_TOKEN travels as plain text" in ran.out
    assert runpod.only["env"]["HF_TOKEN"] == "hf_0123456789abcdef"

    ran = deploy(*UP, DEPLOY_HF_SECRET="hf_token")
    assert "HF_TOKEN travels" not in ran.out
    assert "{{ RUNPOD_SECRET_hf_token }}" in ran.out
    assert runpod.only["env"]["HF_TOKEN"] == "{{ RUNPOD_SECRET_hf_token }}"


def test_no_secret_is_shown_anywhere(deploy, runpod):
    secrets = {
        "SERVE_API_KEY": "a-key-of-the-server",
        "WORKER_UPLOAD_TOKEN": "tok-of-the-worker-987",
        "HF_TOKEN": "hf_0123456789abcdef",
    }
    runpod.failures.append(Failure("POST", "/serverless", status=422, errors=(f"env: {' '.join(secrets.values())}",)))
    for command in (UP, ("up", "--dry-run"), (*UP, "--json"), ("plan", "--json"), ("plan",), ("status", "--json")):
        ran = deploy(*command, **secrets)
        assert ran.text
    assert runpod.only["env"]["SERVE_API_KEY"] == "a-key-of-the-server"
    ran = deploy("up", "--dry-run", SERVE_API_KEY="another-key-of-the-server")
    assert "env.SERVE_API_KEY" in ran.out
    assert "a-key-of-the-server" not in ran.text


def test_dry_run_sends_nothing(deploy, runpod):
    ran = deploy("up", "--dry-run")

    assert ran.status == 0
    assert "nothing was sent" in ran.out
    assert runpod.endpoints == {}
    assert runpod.calls("POST") == []


@pytest.mark.parametrize("carried_out", [True, False])
@pytest.mark.parametrize("status", [500, None])
def test_a_failed_create_never_makes_two(deploy, runpod, status, carried_out):
    runpod.failures.append(Failure("POST", "/serverless", status=status, carried_out=carried_out))
    ran = deploy(*UP)

    assert ran.status == 0, ran.text
    assert len(runpod.endpoints) == 1
    assert deploy(*UP).status == 0
    assert len(runpod.endpoints) == 1
    assert runpod.calls("PATCH") == []


def test_a_create_that_keeps_failing_says_where_it_stands(deploy, runpod):
    runpod.failures.append(Failure("POST", "/serverless", times=99))
    ran = deploy(*UP)

    assert ran.status == 1
    assert "RunPod failed with 500" in ran.err
    assert "`make deploy` again finds it by its name" in ran.err


@pytest.mark.parametrize(
    ("status", "errors", "said"),
    [
        (401, (), "does not accept RUNPOD_API_KEY"),
        (402, (), "no funds left"),
        (403, (), "may not do this"),
        (404, (), "knows nothing at"),
        (409, (), "busy with another change"),
        (422, ("gpu.pools: unknown pool",), "gpu.pools: unknown pool (set by DEPLOY_GPU_POOLS)"),
        (422, ("workers.max: must be at most 2",), "(set by DEPLOY_WORKERS_MAX)"),
    ],
)
def test_a_refusal_is_one_sentence_and_is_not_repeated(deploy, runpod, status, errors, said):
    runpod.failures.append(Failure("POST", "/serverless", status=status, errors=errors, times=99))
    ran = deploy(*UP)

    assert ran.status == 1
    assert said in ran.err
    assert "Nothing was created." in ran.err
    assert len(runpod.calls("POST", "/serverless")) == 1


def test_a_rate_limit_is_waited_for(deploy, runpod):
    runpod.failures.append(Failure("GET", "/serverless", status=429, headers={"Retry-After": "1"}))
    ran = deploy(*UP)

    assert ran.status == 0
    assert "rate limit" in ran.err


def test_a_slow_answer_is_waited_for(deploy, runpod):
    runpod.failures.append(Failure("POST", "/serverless", carried_out=True, delay=2.0, status=500))
    assert deploy(*UP).status == 0
    assert len(runpod.endpoints) == 1


def test_two_endpoints_of_the_name_are_not_guessed_between(deploy, runpod):
    deploy(*UP)
    runpod.endpoints["other"] = {**runpod.only, "id": "other"}
    ran = deploy(*UP)

    assert ran.status == 1
    assert "2 endpoints are called 'gemma3-27b' (ep1, other)" in ran.err


def test_waits_asks_a_question_and_writes_the_file_for_the_application(deploy, runpod):
    ran = deploy("up", "--yes")

    assert ran.status == 0, ran.text
    for stage in ("waiting for a GPU", "pulling the image", "loading the model", "ready: 1 of 1 workers"):
        assert stage in ran.out
    assert "Paris" in ran.out
    file = deploy.folder / ".env.runpod"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().splitlines() == [
        f"LLM_BASE_URL='{runpod.root}/v2/ep1/openai/v1'",
        f"LLM_API_KEY='{KEY}'",
        "LLM_MODEL='google/gemma-3-27b-it'",
    ]


def test_the_name_of_the_model_is_the_same_on_both_sides(deploy, runpod):
    runpod.boot = runpod.boot[-1:]
    ran = deploy("up", "--yes", LLM_MODEL="gemma")

    assert ran.status == 0, ran.text
    assert runpod.only["env"]["SERVE_SERVED_MODEL_NAME"] == "gemma"
    assert "LLM_MODEL='gemma'" in (deploy.folder / ".env.runpod").read_text()


def test_load_balancer_mode(deploy, runpod):
    runpod.boot = runpod.boot[-1:]
    ran = deploy("up", "--yes", DEPLOY_MODE="load-balancer", SERVE_API_KEY="a-key-of-the-server")

    assert ran.status == 0, ran.text
    (body,) = runpod.calls("POST", "/serverless")
    assert body["type"] == "LOAD_BALANCER"
    assert body["scaling"]["type"] == "REQUEST_COUNT"
    assert body["ports"] == [f"{body['env']['PORT']}/http", f"{body['env']['PORT_HEALTH']}/http"]
    assert body["env"]["WORKER_MODE"] == "load-balancer"
    assert "SERVE_API_KEY" not in body["env"]
    assert f"LLM_BASE_URL='{runpod.root}/balanced/ep1/v1'\n" in (deploy.folder / ".env.runpod").read_text()


def test_a_queue_that_scales_by_requests_sends_no_idle_timeout(deploy, runpod):
    ran = deploy(*UP, DEPLOY_SCALER="request-count")

    assert ran.status == 0, ran.text
    assert runpod.only["workers"] == {"min": 0, "max": 3}
    assert deploy(*UP, DEPLOY_SCALER="queue-delay").status == 0
    assert runpod.only["workers"]["idleTimeout"] == 300
    assert deploy(*UP).status == 0
    assert len(runpod.calls("PATCH")) == 1


def test_the_mode_of_a_live_endpoint_cannot_change(deploy, runpod):
    deploy(*UP)
    ran = deploy(*UP, DEPLOY_MODE="load-balancer")

    assert ran.status == 2
    assert "DEPLOY_MODE cannot change" in ran.err
    assert runpod.calls("PATCH") == []


def test_a_volume_must_be_where_the_workers_may_be(deploy, runpod):
    runpod.add_volume("vol1", "EU-RO-1")
    ran = deploy(*UP, DEPLOY_NETWORK_VOLUME="vol1", DEPLOY_DATA_CENTERS="US-KS-2")
    assert ran.status == 2
    assert "EU-RO-1" in ran.err

    assert deploy(*UP, DEPLOY_DATA_CENTERS="EU-RO-1").status == 0
    assert runpod.only["networkVolumes"] == ["vol1"]
    assert runpod.only["disk"] == 90  # the worker may find the volume closed
    assert deploy("plan", DEPLOY_CACHED_MODEL="1").status == 0


def test_the_cached_model_is_set_once_and_keeps_the_rest(deploy, runpod):
    ran = deploy(*UP, DEPLOY_CACHED_MODEL="1")
    assert ran.status == 0, ran.text
    assert deploy(*UP).status == 0

    (saved,) = runpod.saved
    assert saved["templateId"] == "template-of-ep1"
    assert saved["workersMax"] == 3
    assert saved["type"] == "QB"
    assert saved["modelReferences"][0].startswith("https://huggingface.co/")
    assert all("input" in body["variables"] for body in runpod.calls("POST", "/graphql") if "$input" in body["query"])


def test_graphql_is_left_alone_otherwise(deploy, runpod):
    deploy(*UP)
    assert runpod.calls("POST", "/graphql") == []


def test_a_worker_that_fails_says_why(deploy, runpod):
    sick = {"status": "UNHEALTHY", "gpuTypeId": "NVIDIA A40", "uptimeSeconds": 3}
    runpod.boot = (runpod.boot[0], sick, runpod.boot[-1])
    runpod.log = ["starting", "CUDA error: out of memory", "bye"]
    ran = deploy("up", "--yes")

    assert ran.status == 0, ran.text
    assert "worker worker1 is unhealthy: CUDA error: out of memory" in ran.out


def test_an_answer_that_does_not_come_leaves_a_state_that_is_said(deploy, runpod):
    deploy.env["DEPLOY_NAME"] = "broken"
    runpod.boot, runpod.answer = runpod.boot[-1:], ""
    ran = deploy("up", "--yes")

    assert ran.status == 1
    assert "answer" in ran.err
    assert "`make undeploy` removes it" in ran.err
    assert not (deploy.folder / ".env.runpod").exists()


def test_ctrl_c_says_what_is_left(deploy, runpod):
    runpod.boot = runpod.boot[:1]
    process = deploy.start("up", "--yes")
    deadline = time.monotonic() + 30
    while not runpod.calls("GET", "/serverless/ep1/workers"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)

    assert process.returncode == 130
    assert "Endpoint gemma3-27b (ep1) exists" in err
    assert "Traceback" not in err


def test_says_who_it_is(deploy, runpod):
    deploy(*UP)
    assert all(agent.startswith("gemma-vllm-kit/") for agent in runpod.user_agents)
