"""Whatever the command, the same pipeline: what one refuses, each refuses, in that command's own words."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from dataclasses import dataclass
from unittest import mock

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from serving.__main__ import main
from serving.model import tryout
from serving.model.config_json import from_folder
from tests.support import fake_vllm
from tests.support.serving import clean_environment, free_port

H100 = "1x NVIDIA H100 80GB HBM3"


@dataclass
class Done:
    """What a command has said."""

    status: int
    stdout: str
    stderr: str

    @property
    def refusal(self) -> str:
        """The sentence that a refused command ends with, without what introduces it."""
        last = self.stderr.strip().splitlines()[-1]
        return last.removeprefix("error: ").removeprefix("`make serve` would end with: ")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run commands in this process, on a machine without a GPU, a hub and an `.env`."""
    monkeypatch.chdir(tmp_path)
    machine = {
        "SERVE_ENGINE": str(fake_vllm.install(tmp_path)),
        "SERVE_PORT": str(free_port()),
        "SERVE_CACHE_DIR": str(tmp_path / "cache"),
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_ENDPOINT": f"http://127.0.0.1:{free_port()}",  # nobody is there: offline
    }

    def run(*arguments: str, **settings: str) -> Done:
        stdout, stderr = io.StringIO(), io.StringIO()
        root = logging.getLogger()
        handlers, root.handlers = root.handlers, []
        try:
            with (
                mock.patch.dict("os.environ", clean_environment(**(machine | settings)), clear=True),
                contextlib.redirect_stdout(stdout),
                contextlib.redirect_stderr(stderr),
            ):
                status = main(list(arguments))
        finally:
            root.handlers = handlers
        return Done(status, stdout.getvalue(), stderr.getvalue())

    return run


COMMANDS = {
    "serve": ("serve", "--dry-run"),
    "plan": ("plan",),
    "doctor": ("doctor",),
    "export": ("export", "helm"),
}


@pytest.mark.parametrize(
    ("wrong", "said", "commands"),
    [
        ({"SERVE_GPUS": "nonsense"}, "SERVE_GPUS='nonsense'", COMMANDS),
        ({"SERVE_HOST": "0.0.0.0"}, "SERVE_HOST='0.0.0.0' without a key", ("serve", "doctor")),
        ({"SERVE_MODEL": "tryout-nothing"}, "SERVE_MODEL='tryout-nothing'", COMMANDS),
        ({"SERVE_MODEL": "nobody/knows"}, "SERVE_MODEL='nobody/knows' is not known here", COMMANDS),
        ({"SERVE_MODEL": "./nowhere"}, "SERVE_MODEL='./nowhere'", COMMANDS),
        ({"SERVE_DTYPE": "float16"}, "SERVE_DTYPE='float16'", COMMANDS),
        ({"SERVE_MAX_MODEL_LEN": "200000"}, "SERVE_MAX_MODEL_LEN=200000", COMMANDS),
        ({"SERVE_EXTRA_ARGS": "--max-model-len=200000"}, "SERVE_EXTRA_ARGS: --max-model-len=200000", COMMANDS),
        ({"SERVE_EXTRA_ARGS": "--dtype complex64"}, "SERVE_EXTRA_ARGS: --dtype 'complex64'", COMMANDS),
        ({"SERVE_ENGINE": "/nowhere/vllm"}, "SERVE_ENGINE='/nowhere/vllm'", ("serve", "doctor")),
    ],
)
def test_what_one_command_refuses_each_refuses_with_the_same_sentence(run, wrong, said, commands):
    done = {name: run(*COMMANDS[name], **({"SERVE_GPUS": H100} | wrong)) for name in commands}
    for name, one in done.items():
        assert one.status in (1, 2), name
        assert said in one.refusal
    assert len({one.refusal for one in done.values()}) == 1


def test_an_option_is_blamed_and_advised_where_it_was_an_option(run):
    refused = run("plan", "--model", "nobody/knows", SERVE_GPUS=H100).refusal
    assert refused.startswith("--model='nobody/knows'")
    assert run("plan", "--gpus", "nonsense").refusal.startswith("--gpus='nonsense'")
    assert run("plan", "--model", "google/gemma-3-1b-it", "--precision", "int4").refusal.startswith(
        "--precision='int4'"
    )
    assert "--context 15360 (int4)" in run("plan", "--gpus", "1x L4").stdout
    for command in ("serve", "doctor", "export"):
        refused = run(*COMMANDS[command], SERVE_GPUS="1x L4").refusal
        assert "SERVE_CONTEXT=15360 (int4)" in refused
        assert "--context" not in refused


def test_without_a_gpu_all_take_the_try_out_model(run, tmp_path):
    plan = json.loads(run("plan", "--json").stdout)
    doctor = json.loads(run("doctor", "--json").stdout)
    served = run("serve", "--dry-run")
    assert plan == doctor["plan"]
    assert plan["fits"] is doctor["ok"] is True
    assert served.status == 0, served.stderr
    assert " ".join(plan["args"]) in served.stdout
    assert "--served-model-name tryout-smollm2-135m" in served.stdout
    assert not (tmp_path / "cache").exists()  # a plan converts nothing
    assert {run(*COMMANDS[name], SERVE_MODEL="google/gemma-3-27b-it").status for name in ("plan", "serve")} == {3}


def test_a_try_out_model_is_not_exported(run):
    done = run("export", "skypilot", SERVE_MODEL="tryout-gemma-3-270m", SERVE_GPUS=H100)
    assert done.status == 2
    assert done.refusal.startswith("SERVE_MODEL='tryout-gemma-3-270m' cannot be exported: it is a try-out model")


VALUES = {
    "SERVE_GPUS": (H100, "2x NVIDIA L40S", "1x Tesla T4", "0x H100", "nonsense"),
    "SERVE_MODEL": ("google/gemma-3-4b-it", "nobody/knows", "tryout-gemma-3-270m", "tryout-x"),
    "SERVE_HOST": ("127.0.0.1", "0.0.0.0", "::"),
    "SERVE_API_KEY": ("a-key", "not a key"),
    "SERVE_PRECISION": ("auto", "int4", "nonsense"),
    "SERVE_CONTEXT": ("1024", "200000", "0"),
    "SERVE_TENSOR_PARALLEL_SIZE": ("1", "2", "3"),
    "SERVE_EXTRA_ARGS": ("--seed 1", "--max-model-len many", "-pp 2", "'"),
}


@bounds(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.fixed_dictionaries(
        {"SERVE_GPUS": st.sampled_from(VALUES["SERVE_GPUS"])},
        optional={name: st.sampled_from(values) for name, values in VALUES.items() if name != "SERVE_GPUS"},
    )
)
def test_doctor_serve_and_plan_agree_whatever_is_set(run, chosen):
    served, doctor, plan = (run(*COMMANDS[name], **chosen) for name in ("serve", "doctor", "plan"))
    assert (served.status == 0) == (doctor.status == 0), (served, doctor)
    if served.status:
        assert served.refusal == doctor.refusal
    else:
        assert plan.status == 0
    if plan.status and "without a key" not in served.refusal:
        assert served.status == plan.status


@pytest.mark.parametrize("model", tryout.TRYOUT_MODELS.values(), ids=lambda model: model.name)
@pytest.mark.engine
def test_a_try_out_model_is_planned_before_it_is_made_as_after(model, request, tmp_path):
    request.getfixturevalue("smollm" if model.name == tryout.DEFAULT_TRYOUT else "gemma_270m")
    from serving.settings import ServeSettings

    folder = tryout.folder(model, ServeSettings.load(None).cache_dir)
    made, before = from_folder(folder, str(folder)), tryout.facts(model, tmp_path)
    for field in ("heads", "hidden", "vocab", "max_model_len"):
        assert getattr(made, field) == getattr(before, field), field
    assert made.gemma == before.gemma
    assert set(made.kv_layers) == set(before.kv_layers)
    assert before.checkpoints[0].weight_bytes == pytest.approx(made.checkpoints[0].weight_bytes, rel=0.01)
