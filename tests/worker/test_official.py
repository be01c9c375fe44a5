"""The variables of RunPod's own worker: none is ignored in silence, and those with a twin are taken over."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.variables import Variables
from serving.settings import ServeSettings
from tests.support.worker import ROOT
from worker import official
from worker.settings import WorkerSettings

VALUES = {
    "MODEL_NAME": "org/some-model",
    "OPENAI_SERVED_MODEL_NAME_OVERRIDE": "a-name",
    "SERVED_MODEL_NAME": "another-name",
    "MAX_MODEL_LEN": "4096",
    "GPU_MEMORY_UTILIZATION": "0.85",
    "TENSOR_PARALLEL_SIZE": "2",
    "MAX_NUM_SEQS": "64",
    "MAX_NUM_BATCHED_TOKENS": "8192",
    "DTYPE": "bfloat16",
    "ENABLE_AUTO_TOOL_CHOICE": "true",
    "VLLM_EXTRA_ARGS": "--kv-cache-dtype fp8 --seed 7",
    "VLLM_STARTUP_TIMEOUT": "1200",
    "VLLM_PORT": "8123",
    "VLLM_API_KEY": "sk-key",
    "MAX_CONCURRENCY": "12",
    "BASE_PATH": "/workspace",
}
KNOWN = [*official.TWINS, *official.INSTEAD, *official.OPTIONS]


def load(monkeypatch, environment):
    """Return the settings of a worker that has this environment."""
    with monkeypatch.context() as patched:
        for name in (*Variables.prefixes, "LLM_"):
            for other in [key for key in os.environ if key.startswith(name)]:
                patched.delenv(other)
        for name, value in environment.items():
            patched.setenv(name, value)
        return ServeSettings.load(env_file=None), WorkerSettings.load(env_file=None)


@pytest.mark.parametrize("name", official.TWINS)
def test_a_twin_is_taken_over_with_a_warning(monkeypatch, name):
    environment = {name: VALUES[name]}
    (sentence,) = official.take_over(environment)
    assert sentence.startswith(f"{name} is a variable of RunPod's own vLLM worker")
    assert official.TWINS[name] in sentence
    assert load(monkeypatch, environment) == load(monkeypatch, {official.TWINS[name]: VALUES[name]})
    assert load(monkeypatch, environment) != load(monkeypatch, {})


@pytest.mark.parametrize("name", official.TWINS)
def test_ours_wins_where_both_are_set(name):
    twin = official.TWINS[name]
    environment = {name: VALUES[name], twin: "ours"}
    (sentence,) = official.take_over(environment)
    assert environment[twin] == "ours"
    assert f"does nothing: {twin} is set" in sentence
    in_file = {name: VALUES[name]}
    assert official.take_over(in_file, [twin]) == [sentence]
    assert in_file == {name: VALUES[name]}


def test_values_are_read_as_they_are_meant_there():
    environment = {"DTYPE": "half", "MAX_NUM_BATCHED_TOKENS": "0", "MODEL_NAME": " org/name "}
    assert len(official.take_over(environment)) == 2
    assert environment["SERVE_DTYPE"] == "float16"
    assert environment["SERVE_MODEL"] == "org/name"
    assert "SERVE_MAX_NUM_BATCHED_TOKENS" not in environment
    assert official.take_over({"DTYPE": "", "SEED": ""}) == []


def test_the_name_that_wins_there_wins_here():
    environment = {"SERVED_MODEL_NAME": "one", "OPENAI_SERVED_MODEL_NAME_OVERRIDE": "two"}
    assert len(official.take_over(environment)) == 2
    assert environment["SERVE_SERVED_MODEL_NAME"] == "two"


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(KNOWN), st.just("a-secret-value"), min_size=1))
def test_each_one_gets_a_sentence_and_no_sentence_holds_a_value(given_variables):
    names = list(given_variables)
    for sentences in (official.take_over(dict(given_variables)), official.answers(names)):
        assert sorted(sentence.split()[0] for sentence in sentences) == sorted(names)
        assert "a-secret-value" not in "".join(sentences)
        assert all(sentence.endswith(".") for sentence in sentences)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z_]{0,20}", fullmatch=True), st.text(max_size=9)))
def test_other_variables_are_left_alone(variables):
    others = {name: value for name, value in variables.items() if name not in KNOWN}
    before = dict(others)
    assert official.take_over(others) == []
    assert others == before


def test_no_name_is_known_twice_and_every_twin_is_a_setting():
    assert len(KNOWN) == len(set(KNOWN))
    known = {name for names in Variables.prefixes.values() for name in names}
    assert set(official.TWINS.values()) <= known
    named = {word.strip("(),;") for text in official.INSTEAD.values() for word in text.split() if "_" in word}
    assert {word for word in named if word.startswith(("SERVE_", "WORKER_", "DEPLOY_"))} <= known | {
        "DEPLOY_EXECUTION_TIMEOUT"
    }


def test_the_readme_has_the_table():
    page = (ROOT / "runpod" / "README.md").read_text()
    assert official.markdown() in page
    assert all(f"`{name}`" in page for name in (*official.TWINS, *official.INSTEAD))
