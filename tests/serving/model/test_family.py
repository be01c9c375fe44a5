"""What goes with a family reaches vLLM, and vLLM's own parser takes it."""

import json
import os
import subprocess
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from client._wire.turns import alternates
from serving.engine.program import ENGINE_PYTHON
from serving.hardware.parse import parse_gpus
from serving.launch import Settled, settle
from serving.model.family import FAMILIES, GEMMA3, GEMMA4, family_of
from serving.model.resolve import resolve
from serving.model.shipped import MEMBERS
from serving.planning.plan import PlanRequest
from serving.settings import ServeSettings
from tests.support.serving import ROOT, clean_environment

H100 = parse_gpus("1x H100")


@pytest.fixture(autouse=True)
def _no_settings_and_no_network(monkeypatch):
    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def arguments(model, **settings):
    chosen = ServeSettings.load(None).model_copy(update=settings)
    settled = settle(chosen, gpu=True, model=model)
    return settled.command(settled.plan(H100), Path("vllm")).argv


def value(argv, flag):
    return argv[argv.index(flag) + 1] if flag in argv else None


def test_gemma_4_gets_its_own_parsers_template_and_sampling():
    argv = arguments("google/gemma-4-31b-it", tools=True)
    assert value(argv, "--tool-call-parser") == value(argv, "--reasoning-parser") == "gemma4"
    assert "--tool-parser-plugin" not in argv
    assert "--chat-template" not in argv
    assert json.loads(value(argv, "--override-generation-config")) == {"temperature": 1.0, "top_k": 64, "top_p": 0.95}


def test_gemma_3_keeps_the_kits_parser_and_template():
    argv = arguments("google/gemma-3-12b-it")
    assert value(argv, "--tool-call-parser") == "python_calls"
    assert value(argv, "--chat-template").endswith("gemma3.jinja")
    assert "--reasoning-parser" not in argv


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}}, "Gemma 3"),
        ({"model_type": "gemma4", "text_config": {"model_type": "gemma4_text"}}, "Gemma 4"),
        ({"model_type": "gemma3n"}, None),
        ({"model_type": "qwen3_moe"}, "Qwen 3"),
        ({"model_type": "llama", "vocab_size": 128_256}, "Llama 3"),
        ({"model_type": "llama", "vocab_size": 49_152}, None),
        ({}, None),
    ],
)
def test_a_family_is_known_by_its_configuration(config, name):
    family = family_of(config)
    assert (family.name if family else None) == name


def test_client_and_server_agree_on_which_families_want_turns_in_turn():
    for facts in MEMBERS:
        assert alternates(facts.name) == facts.family.alternating, facts.name
    assert alternates("unsloth/gemma-3-4b-it")
    assert alternates("gemma-4b")
    assert not alternates("nvidia/Gemma-4-31B-IT-NVFP4")
    assert GEMMA3.alternating
    assert not GEMMA4.alternating


@pytest.mark.engine
def test_vllms_own_parser_takes_what_every_family_and_setting_gets(tmp_path):
    chosen = ServeSettings.load(None)
    lists = []
    for family, tools in product((*FAMILIES, None), (True, False)):
        facts = replace(resolve("google/gemma-4-e4b-it"), family=family)
        settled = Settled(chosen.model_copy(update={"tools": tools}), facts.name, facts, PlanRequest())
        lists.append(settled.command(settled.plan(H100), Path("vllm")).argv[2:])
    lists += [arguments(facts.name)[2:] for facts in MEMBERS]
    more = {"kv_cache_dtype": "fp8", "quantization": "fp8", "load_format": "runai_streamer", "speculate": "ngram"}
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 20}))
    lists.append(arguments("google/gemma-3-27b-it", lora=(f"sql={tmp_path}",), **more)[2:])
    lists.append(arguments("acme/unheard-of", plan="off")[2:])
    assert {"--lora-modules", "--speculative-config", "--quantization", "--load-format"} <= set(lists[-2])
    *found, wrong = problems([*lists, ["model", "--no-such-flag"]])
    assert found == [None] * len(lists)
    assert "no-such-flag" in wrong


def problems(lists):
    done = subprocess.run(
        [ENGINE_PYTHON, "-W", "ignore", ROOT / "tests" / "serving" / "vllm_side" / "inside" / "arguments_in_engine.py"],
        input=json.dumps(lists),
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)
