"""Asking vLLM how large a model is: the answer is kept, and whatever goes wrong is a sentence in the plan."""

import json
import os
import subprocess
import sys

import pytest

from serving.engine.program import ENGINE_PYTHON
from serving.hardware.parse import parse_gpus
from serving.launch import settle
from serving.model import ask_vllm, tryout
from serving.model.ask_vllm import AskVllm
from serving.model.config_json import from_config
from serving.model.description import Files
from serving.planning.plan import PlanRequest, make_plan
from serving.settings import ServeSettings
from tests.serving.model.test_shipped import DESCRIBED, described, layers
from tests.support.fake_vllm import install

BY_NAME = {item["name"]: item for item in DESCRIBED}
QWEN = BY_NAME["Qwen3 8B"]
GIB = 2**30
# What no general arithmetic says: a window of one token more, dense layers of another width, an embedding per layer.
ONLY_VLLM_KNOWS = ("Cohere 2", "Llama 4 Scout", "Gemma 3n E4B", "Qwen3 Next", "gemma-4-E2B-it", "gemma-4-E4B-it")


class Environment:
    """An environment whose interpreter runs `script` in place of the one that asks vLLM, and counts how often."""

    def __init__(self, root):
        self.root, self.said = root, []
        self.python = root / "bin" / "python"
        self.python.parent.mkdir(parents=True)
        self.version("0.32.0")

    def version(self, version):
        packages = self.root / "lib" / "python3.12" / "site-packages"
        for old in packages.glob("*"):
            old.rmdir()
        (packages / f"vllm-{version}.dist-info").mkdir(parents=True)

    def answers(self, *lines, then=""):
        self.python.write_text(
            f"#!{sys.executable}\nimport json, os, sys, time\n"
            f"open({str(self.root / 'asked')!r}, 'a').write('x')\n"
            f"open({str(self.root / 'saw')!r}, 'w').write(json.dumps(dict(os.environ)))\n"
            f"for line in {list(lines)!r}:\n    print(line, flush=True)\n{then}\n"
        )
        self.python.chmod(0o755)
        return AskVllm(self.python, self.root / "cache", self.said.append)

    @property
    def asked(self):
        file = self.root / "asked"
        return len(file.read_text()) if file.exists() else 0


@pytest.fixture
def environment(tmp_path):
    return Environment(tmp_path / "env")


def test_an_answer_is_asked_for_once_and_kept_by_configuration_and_version(environment):
    ask = environment.answers(json.dumps({"phase": "importing vLLM"}), json.dumps(QWEN["described"]))
    for _ in range(3):
        assert ask(QWEN["config"], "Qwen/Qwen3-8B") == QWEN["described"]
    assert environment.asked == 1
    assert environment.said == ["asking vLLM what Qwen/Qwen3-8B takes (once, about half a minute)", "  importing vLLM"]
    ask(QWEN["config"] | {"num_hidden_layers": 3}, "another")
    assert environment.asked == 2
    environment.version("0.33.0")
    ask(QWEN["config"], "Qwen/Qwen3-8B")
    assert environment.asked == 3


@pytest.mark.parametrize(
    ("lines", "then", "said", "kept"),
    [
        ([json.dumps({"error": "no such\x1b[31m class"})], "", "no such[31m class", True),
        ([], "sys.exit(3)", "vLLM ended with status 3", False),
        ([], "os.kill(os.getpid(), 9)", "vLLM ended with status -9", False),
        (["Traceback", "[]", "1", "{"], "", "vLLM ended with status 0", False),
        ([], "time.sleep(600)", "vLLM did not answer", False),
    ],
)
def test_whatever_goes_wrong_is_said_in_the_plan(environment, monkeypatch, lines, then, said, kept):
    ask = environment.answers(*lines, then=then)
    if "sleep" in then:
        monkeypatch.setattr(ask_vllm, "TIMEOUT_S", 0.3)
    facts = from_config(QWEN["config"], "Qwen/Qwen3-8B", Files(), ask=ask)
    assert said in facts.notes[0]
    assert facts.checkpoints[0].weight_bytes == pytest.approx(16.38e9, rel=0.02)
    found = make_plan(facts, parse_gpus("1x H100"), PlanRequest())
    assert said in found.reason
    ask(QWEN["config"], "Qwen/Qwen3-8B")
    assert environment.asked == (1 if kept else 2)


def test_secrets_stay_out_of_its_environment(environment, monkeypatch):
    for name in ("HF_TOKEN", "SERVE_API_KEY", "LLM_API_KEY", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "sk-secret")
    environment.answers(json.dumps(QWEN["described"]))(QWEN["config"], "Qwen")
    assert "sk-secret" not in (environment.root / "saw").read_text()


def test_a_cache_that_cannot_be_written_or_read_costs_only_time(environment):
    ask = environment.answers(json.dumps(QWEN["described"]))
    (environment.root / "cache").write_text("no folder")
    assert ask(QWEN["config"], "Qwen") == ask(QWEN["config"], "Qwen") == QWEN["described"]
    (environment.root / "cache").unlink()
    ask(QWEN["config"], "Qwen")
    (kept,) = (environment.root / "cache" / "described").glob("*.json")
    kept.write_text("{")
    assert ask(QWEN["config"], "Qwen") == QWEN["described"]


@pytest.mark.parametrize("python", [None, "nowhere/python"])
def test_without_vllm_the_configuration_is_computed_and_the_plan_says_so(tmp_path, python):
    ask = AskVllm(python and tmp_path / python, tmp_path)
    facts = from_config(QWEN["config"], "Qwen", Files(), ask=ask)
    assert "there is no vLLM here to ask" in facts.notes[0]


@pytest.mark.parametrize("item", DESCRIBED, ids=lambda item: item["name"])
@pytest.mark.parametrize("gpus", [1, 2, 4])
def test_a_plan_takes_the_weights_that_vllm_makes(item, gpus):
    weights = item["described"]["weights"].get(str(gpus))
    facts = described(item)
    if weights is None or not item["described"]["quantised"] or (facts.family and facts.family.name == "Gemma 3"):
        return
    request = PlanRequest(tensor_parallel_size=gpus, context=1)
    found = make_plan(facts, parse_gpus(f"{gpus}x 500GiB sm100"), request)
    rest = item["described"]["rest_bytes"] or 0
    made = sum(weights.values()) - weights["buffers"] + rest
    assert found.memory_gib["weights"] == pytest.approx(made / GIB, rel=0.02)


@pytest.mark.parametrize("item", DESCRIBED, ids=lambda item: item["name"])
def test_what_is_computed_without_vllm_is_near_what_vllm_makes(item):
    """Mixtures of experts and latent attention too; a state's size is vLLM's to know."""
    if item["name"].removeprefix("google/") in ONLY_VLLM_KNOWS:
        return
    theirs, ours = described(item), from_config(item["config"], item["name"], Files())
    tower = theirs.tower_bytes - ours.tower_bytes  # which is not known, and said
    assert ours.checkpoints[0].weight_bytes == pytest.approx(theirs.checkpoints[0].weight_bytes - tower, rel=0.05)
    assert bool(tower) == any("not counted" in note for note in ours.notes)
    if "state" not in {layer.kind for layer in theirs.kv_layers}:
        assert layers(ours) == layers(theirs)


def test_a_program_names_the_interpreter_of_its_environment(tmp_path):
    from serving.engine.program import engine_python

    program = install(tmp_path)
    assert engine_python(program) is not None
    program.write_text("#!/bin/sh\n")
    assert engine_python(program) is None
    (tmp_path / "python").symlink_to(sys.executable)
    assert engine_python(program) == tmp_path / "python"
    assert engine_python(tmp_path / "nowhere") is None


@pytest.mark.engine
def test_the_plan_from_vllms_code_is_what_the_real_engine_logs(request, tmp_path):
    serve = request.getfixturevalue("smollm")
    settings = ServeSettings.load(None)
    folder = tryout.folder(tryout.TRYOUT_MODELS[tryout.DEFAULT_TRYOUT], settings.cache_dir)
    asked = settings.model_copy(update={"cache_dir": tmp_path})
    settled = settle(asked, gpu=False, model=str(folder))
    assert not settled.facts.notes
    computed = settle(settings, gpu=False)
    assert layers(settled.facts) == layers(computed.facts)
    assert settled.facts.checkpoints[0].weight_bytes == pytest.approx(
        computed.facts.checkpoints[0].weight_bytes, rel=0.01
    )
    assert serve.base_url


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize("item", DESCRIBED, ids=lambda item: item["name"])
def test_vllm_still_says_the_same(item, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(item["config"]))
    done = subprocess.run(
        [ENGINE_PYTHON, "-W", "ignore", ask_vllm.SCRIPT, tmp_path],
        env=os.environ | {"VLLM_LOGGING_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == item["described"]
