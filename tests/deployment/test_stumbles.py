"""RunPod and its users as they are: two deploys at once, no stock, workers that fail, what the console has changed."""

from __future__ import annotations

import shlex
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.variables import read_env_file
from deployment import env_file, rollout
from deployment.answers import Release, WorkerList
from deployment.graphql_api import repository, same_models
from deployment.releases import last_change
from deployment.rollout import Starts
from tests.deployment.conftest import Deploy
from tests.deployment.fake_runpod import Failure

UP = ("up", "--yes", "--no-wait")


# ---- two deploys at once


def test_two_deploys_on_one_machine_make_one_endpoint(deploy, runpod):
    # As slow a create as it takes for both to have looked for the endpoint before there was one.
    runpod.failures.append(Failure("POST", "/serverless", delay=1.0, carried_out=True, status=500))
    both = [deploy.start(*UP) for _ in range(2)]
    ended = [process.communicate(timeout=60) for process in both]

    assert [process.returncode for process in both] == [0, 0], ended
    assert len(runpod.endpoints) == 1
    assert len(runpod.calls("POST", "/serverless")) == 1
    assert sum("waiting for it" in out for out, _ in ended) == 1
    assert sum("nothing to change" in out for out, _ in ended) == 1


@pytest.mark.parametrize("status", [201, 500])
def test_two_deploys_on_two_machines_make_one_endpoint(deploy, runpod, status, tmp_path):
    # Both have looked before either has made one; with 500 neither learns whether it has.
    runpod.creates_at_once = 2
    if status == 500:
        runpod.failures.append(Failure("POST", "/serverless", status=500, carried_out=True, times=2))
    both = [deploy.start(*UP, HOME=str(tmp_path / name)) for name in ("one", "other")]
    ended = [process.communicate(timeout=60) for process in both]

    assert [process.returncode for process in both] == [0, 0], ended
    assert len(runpod.calls("POST", "/serverless")) == 2
    assert list(runpod.endpoints) == ["ep1"]  # the elder


@pytest.mark.parametrize("unlisted", [0, 1])
def test_of_two_that_were_made_at_once_the_younger_goes(deploy, runpod, unlisted):
    assert deploy("up", "--yes", "--no-wait", DEPLOY_NAME="other").status == 0
    body = {**runpod.calls("POST", "/serverless")[0], "name": "gemma3-27b"}
    runpod.rivals.append(body)
    # The list after the create may not show what was made yet; the one that made it knows of it all the same.
    create, runpod.unlisted = runpod._create, 0

    def lagging(given):
        answer = create(given)
        runpod.unlisted = unlisted
        return answer

    runpod._create = lagging
    ran = deploy(*UP, DEPLOY_NAME="gemma3-27b")

    assert ran.status == 0, ran.text
    assert [item["id"] for item in runpod.endpoints.values() if item["name"] == "gemma3-27b"] == ["ep2"]
    assert "another deploy has made endpoint gemma3-27b (ep2) at the same time" in ran.out
    assert "ep2" in (deploy.folder / ".env.runpod").read_text()


def test_down_removes_both(deploy, runpod):
    deploy(*UP)
    runpod.endpoints["twin"] = {**runpod.only, "id": "twin"}
    assert "`make undeploy` removes them all" in deploy(*UP).err
    ran = deploy("down", "--yes")

    assert ran.status == 0, ran.text
    assert "(ep1)" in ran.out
    assert "(twin)" in ran.out
    assert runpod.endpoints == {}


# ---- cached models


@pytest.mark.parametrize("commit", ["", "0123456789abcdef0123456789abcdef01234567"])
def test_a_cached_model_settles_and_can_be_rolled_back(deploy, runpod, commit):
    runpod.commit = commit
    settings = {"DEPLOY_CACHED_MODEL": "1"}
    assert deploy(*UP, **settings).status == 0
    calls = len(runpod.saved)
    ran = deploy(*UP)

    assert "nothing to change" in ran.out
    assert runpod.calls("PATCH") == []
    assert len(runpod.saved) == calls == 1
    assert "no release to go back to" in deploy("rollback", "--yes").err

    old = runpod.only["image"]
    assert deploy(*UP, DEPLOY_IMAGE="registry.example/gemma-worker:2.0").status == 0
    assert deploy("rollback", "--yes", "--no-wait").status == 0
    assert runpod.only["image"] == old
    assert len(runpod.saved) == 1


@pytest.mark.parametrize("now", ["1", "0"])  # .env may have been put back before
def test_a_deploy_that_changed_the_cached_model_too_is_taken_back_whole(deploy, runpod, now):
    runpod.commit = "abc"
    deploy(*UP, DEPLOY_CACHED_MODEL="1")
    before = dict(runpod.model_references)
    deploy(*UP, SERVE_PRECISION="bf16")
    assert runpod.model_references != before
    ran = deploy("rollback", "--yes", "--no-wait", DEPLOY_CACHED_MODEL=now)

    assert ran.status == 0, ran.text
    assert same_models(runpod.model_references["ep1"], before["ep1"])
    assert runpod.only["env"]["SERVE_PRECISION"] == "int4"


@given(
    st.sampled_from(["google/gemma-3-27b-it", "a/b"]),
    st.sampled_from(["", ":main", ":" + "0" * 40, "@main", "/tree/x"]),
)
def test_a_reference_is_of_its_repository_whatever_the_revision(name, revision):
    for host in ("", "https://huggingface.co/", "huggingface.co/", "https://hf.co/"):
        assert repository(f"{host}{name}{revision}") == name


def test_what_runpod_resolves_is_no_change_to_take_back():
    def release(*diff):
        return Release.model_validate({"diff": [{"field": f, "old": o, "new": n} for f, o, n in diff]})

    model = "https://huggingface.co/a/b:"
    resolved = release(("modelReferences", [model + "main"], [model + "abc"]))
    cached = release(("modelReferences", [], [model + "main"]))
    image = release(("template.imageName", "a:1", "a:2"))
    first = release()

    assert last_change([resolved, cached, first]) is None
    assert [entry.field for entry in last_change([resolved, image, cached, first])] == ["template.imageName"]
    assert [entry.field for entry in last_change([cached, image, first])] == ["modelReferences", "template.imageName"]
    assert last_change([first]) is None
    assert last_change([]) is None


# ---- stock and pools


def test_stock_is_asked_for_what_will_run(deploy, runpod):
    deploy("plan", DEPLOY_GPU_COUNT="2")
    assert deploy.env
    runpod.set_stock("ADA_24", count=1)
    assert "ADA_24" in deploy("plan", "--json", DEPLOY_GPU_COUNT="1").json["chosen"]
    assert "ADA_24" not in deploy("plan", "--json", DEPLOY_GPU_COUNT="2").json["chosen"]
    deploy.env["DEPLOY_GPU_COUNT"] = "1"
    runpod.set_stock("ADA_24", cuda=12.8)
    assert "ADA_24" not in deploy("plan", "--json").json["chosen"]
    runpod.set_stock("ADA_24", centers=["US-KS-2"])
    assert "ADA_24" in deploy("plan", "--json", DEPLOY_DATA_CENTERS="US-KS-2").json["chosen"]
    assert "ADA_24" not in deploy("plan", "--json", DEPLOY_DATA_CENTERS="EU-RO-1").json["chosen"]
    runpod.add_volume("vol1", "EU-RO-1")
    chosen = deploy("plan", "--json", DEPLOY_DATA_CENTERS="", DEPLOY_NETWORK_VOLUME="vol1").json["chosen"]
    assert "ADA_24" not in chosen


def test_without_stock_nothing_is_made_unless_it_is_meant(deploy, runpod):
    for gpu in runpod.gpus:
        gpu["availability"] = "NONE"
    ran = deploy(*UP)

    assert ran.status == 1
    assert "is free now" in ran.err
    assert "--anyway" in ran.err
    assert runpod.endpoints == {}
    assert deploy(*UP, "--anyway").status == 0
    assert len(runpod.endpoints) == 1
    assert deploy(*UP).status == 0  # nothing to change, nothing to refuse


def test_auto_takes_up_to_three_pools_in_order_of_price_with_one_checkpoint(deploy):
    ran = deploy("plan", "--json")
    chosen = [pool for pool in ran.json["pools"] if pool["chosen"]]

    assert len(chosen) == 3
    assert [pool["usd_per_hour"] for pool in chosen] == sorted(pool["usd_per_hour"] for pool in chosen)
    assert len({pool["checkpoint"] for pool in chosen}) == 1
    assert all(pool["fits"] and pool["available"] for pool in chosen)


def test_pools_that_are_named_answer_with_one_checkpoint(deploy, runpod):
    assert deploy(*UP, DEPLOY_GPU_POOLS="AMPERE_80,ADA_24").status == 0
    assert runpod.only["gpu"]["pools"] == ["AMPERE_80", "ADA_24"]
    assert runpod.only["env"]["SERVE_PRECISION"] == "int4"


# ---- workers that fail

SICK = {"status": "UNHEALTHY", "gpuTypeId": "NVIDIA A40", "uptimeSeconds": 3}
LOADS = {"status": "INITIALIZING", "gpuTypeId": "NVIDIA A40", "uptimeSeconds": 9}


@pytest.mark.parametrize(
    "boot",
    [
        (SICK, LOADS) * 5,
        tuple({**SICK, "id": f"worker{number}"} for number in range(5)),
        ({**LOADS, "uptimeSeconds": 9}, {**LOADS, "uptimeSeconds": 1}) * 5,
        (SICK,),
    ],
    ids=["same worker", "new workers", "restarts", "stays so"],
)
def test_a_crash_loop_ends_the_wait_with_the_last_error_and_what_is_billed(deploy, runpod, monkeypatch, boot):
    monkeypatch.setattr(rollout, "LONGEST_POLL_S", 0.3)
    monkeypatch.setattr(rollout, "UNHEALTHY_S", 0.2)
    runpod.boot = boot
    runpod.log = ["starting", "CUDA error: out of memory", "bye"]
    ran = deploy("up", "--yes")

    assert ran.status == 1
    assert "3 starts of a worker have failed. The last error: CUDA error: out of memory" in ran.err
    assert "each request starts one again, billed" in ran.err
    assert "`make undeploy` removes it" in ran.err
    assert runpod.calls("POST", "/calls/cancel/job-u1") == [None]  # what RunPod would start more workers for
    assert not (deploy.folder / ".env.runpod").exists()


def test_workers_that_always_run_are_said_to_be_billed(deploy, runpod, monkeypatch):
    monkeypatch.setattr(rollout, "LONGEST_POLL_S", 0.3)
    runpod.boot = (SICK, LOADS) * 5
    ran = deploy("up", "--yes", DEPLOY_WORKERS_MIN="2")

    assert "Still billed: 2 workers that RunPod keeps starting" in ran.err


def test_old_workers_that_go_have_not_failed():
    def seen(*workers):
        return WorkerList.model_validate({"workers": workers})

    starts = Starts()
    old = {"id": "old", "status": "IDLE", "isStale": True, "uptimeSeconds": 900}
    starts.failed(seen(old))
    assert starts.failed(seen({"id": "new", **LOADS})) == {}
    assert starts.failed(seen()) == {"new": "has gone before it was ready"}
    assert starts.failures == 1


# ---- what the console has changed


def test_engine_variables_travel_and_those_of_the_console_stay(deploy, runpod):
    given = {"VLLM_ATTENTION_BACKEND": "FLASH_ATTN", "NCCL_P2P_DISABLE": "1", "HF_HUB_ENABLE_HF_TRANSFER": "1"}
    here = {"HF_HOME": "/data/hf", "VLLM_CACHE_ROOT": "/data/vllm"}
    assert deploy(*UP, **given, **here).status == 0
    env = runpod.only["env"]
    assert given.items() <= env.items()
    assert not here.keys() & env.keys()

    env["VLLM_USE_V2"] = "from the console"
    env["SERVE_TOOLS"] = "1"
    ran = deploy(*UP)
    assert "Kept as RunPod's console has them: VLLM_USE_V2" in ran.out
    assert runpod.only["env"]["VLLM_USE_V2"] == "from the console"
    assert "SERVE_TOOLS" not in runpod.only["env"]
    assert deploy(*UP, "--prune-env").status == 0
    assert "VLLM_USE_V2" not in runpod.only["env"]


@pytest.mark.parametrize("now", [0, 2])
def test_what_runpod_has_scaled_down_is_explained_and_set_again(deploy, runpod, now):
    deploy(*UP)
    runpod.only["workers"]["max"] = now

    assert f"(max {now})" in deploy("status").out
    assert "after 7 days" in deploy("status").out
    assert deploy(*UP).status == 0
    assert runpod.only["workers"]["max"] == 3
    assert "after 7 days" not in deploy("status").out


# ---- the file for the application

PRINTABLE = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="'\\"), min_size=1)


@given(PRINTABLE, PRINTABLE)
def test_a_shell_and_dotenv_read_the_same_and_run_nothing(tmp_path_factory, key, model):
    file = tmp_path_factory.mktemp("env") / ".env.runpod"
    env_file.write("https://api.example/v1", key, model, file)

    assert read_env_file(file) == {"LLM_BASE_URL": "https://api.example/v1", "LLM_API_KEY": key, "LLM_MODEL": model}
    words = [shlex.split(line)[0].partition("=")[2] for line in file.read_text().splitlines()]
    assert words == ["https://api.example/v1", key, model]


def test_a_name_is_not_run_by_the_shell_that_sources_it(deploy, runpod):
    assert deploy(*UP, SERVE_SERVED_MODEL_NAME="$(touch${IFS}pwned)`touch${IFS}pwned`").status == 0
    script = 'set -a; . ./.env.runpod; printf %s "$LLM_MODEL"'
    done = subprocess.run(["bash", "-ec", script], cwd=deploy.folder, capture_output=True, text=True, check=True)

    assert done.stdout == "$(touch${IFS}pwned)`touch${IFS}pwned`"
    assert not (deploy.folder / "pwned").exists()


def test_no_link_is_followed(deploy, runpod):
    victim = deploy.folder / "victim"
    victim.write_text("as it was")
    (deploy.folder / ".env.runpod").symlink_to(victim)
    assert deploy(*UP).status == 0

    assert victim.read_text() == "as it was"
    assert not (deploy.folder / ".env.runpod").is_symlink()


def test_a_file_that_cannot_be_written_is_a_sentence(deploy, runpod):
    (deploy.folder / ".env.runpod").mkdir()
    ran = deploy(*UP)

    assert ran.status == 1
    assert ".env.runpod cannot be written" in ran.err


def test_a_restricted_key_is_advised_and_taken(deploy, runpod):
    assert "Give an application a restricted one" in deploy(*UP).out
    ran = deploy(*UP, DEPLOY_CLIENT_KEY="rpa_restricted_to_this_endpoint")

    assert "restricted" not in ran.out
    assert read_env_file(deploy.folder / ".env.runpod")["LLM_API_KEY"] == "rpa_restricted_to_this_endpoint"


# ---- the image, from the same settings


@pytest.fixture
def docker(tmp_path, monkeypatch):
    """A `docker` that writes down what it is asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "docker"
    program.write_text(f'#!/bin/sh\necho "$@" >>{folder}/asked\necho "token=$HF_TOKEN" >>{folder}/asked\n')
    program.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    "line", ["DEPLOY_IMAGE=docker.io/me/worker:1", "export DEPLOY_IMAGE='docker.io/me/worker:1' # the one"]
)
def test_the_image_is_named_by_env_as_deploy_reads_it(docker, tmp_path, line):
    (tmp_path / ".env").write_text(f"{line}\nHF_TOKEN=hf_0123456789abcdef\n")
    deploy = Deploy(tmp_path, {})
    deploy._write = lambda: None
    process = deploy.start("image", "--push", "--bake", "google/gemma-3-27b-it", PATH=f"{docker}:/usr/bin:/bin")
    out, err = process.communicate(timeout=30)

    assert process.returncode == 0, err
    build, token, push, _ = (docker / "asked").read_text().splitlines()
    assert "--tag docker.io/me/worker:1" in build
    assert "BAKE=google/gemma-3-27b-it" in build
    assert "--secret id=hf_token,env=HF_TOKEN" in build
    assert "hf_0123456789abcdef" not in build + out
    assert token == "token=hf_0123456789abcdef"
    assert push == "push docker.io/me/worker:1"
