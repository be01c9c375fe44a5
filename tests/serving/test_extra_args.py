"""SERVE_EXTRA_ARGS: words as a shell splits them, JSON as it was meant, and no flag that gets round a setting."""

import argparse
import json
import shlex
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import ConfigurationError
from serving.extra_args import SAID_BY_SETTINGS, refused, shell_words
from serving.settings import ServeSettings
from tests.support.serving import ROOT, clean_environment

SETTINGS = {
    "--host": "SERVE_HOST", "--port": "SERVE_PORT", "--uds": "SERVE_HOST", "--api-key": "SERVE_API_KEY",
    "--ssl-certfile": "SERVE_TLS_CERT", "--ssl-keyfile": "SERVE_TLS_KEY",
}  # fmt: skip
# The rest of what begins like them, so that argparse finds the same beginnings to be nobody's as in vLLM.
OTHERS = (
    "--help",
    "--headless",
    "--ssl-ca-certs",
    "--ssl-cert-reqs",
    "--hf-token",
    "--pooler-config",
    "--api-server-count",
    "--quantization",
    "--seed",
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.text(min_size=1, max_size=10) | json_values.map(json.dumps), max_size=5))
def test_what_is_quoted_for_a_shell_comes_back_as_it_was(words):
    assert shell_words(shlex.join(words)) == tuple(words)


@settings(deadline=None, max_examples=100)
@given(st.dictionaries(st.text(max_size=8), json_values, max_size=3), st.booleans())
def test_json_keeps_its_quotes_without_a_shells(value, joined):
    text = json.dumps(value)
    expected = (f"--flag={text}", "--more") if joined else ("--flag", text, "--more")
    assert shell_words(f"--flag{'=' if joined else ' '}{text} --more") == expected


@settings(deadline=None, max_examples=100)
@given(st.text(alphabet="ab -={}[]\"'\\,:", max_size=20))
def test_words_without_json_are_those_of_a_shell(text):
    try:
        found = shell_words(text)
    except ValueError:
        return  # a quote is open
    if not any(word.partition("=")[2].startswith(("{", "[")) or word.startswith(("{", "[")) for word in found):
        assert found == tuple(shlex.split(text))


@st.composite
def spelt(draw, flag):
    """Return a spelling of a flag, with a value, that argparse, or vLLM before it, takes for that flag."""
    beginnings = [flag[:length] for length in range(4, len(flag) + 1)]
    name = draw(st.sampled_from([n for n in beginnings if sum(o.startswith(n) for o in (*SETTINGS, *OTHERS)) == 1]))
    if draw(st.booleans()):
        name = "--" + name[2:].replace("-", "_")
    return [f"{name}=x"] if draw(st.booleans()) else [name, "x"]


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_no_spelling_of_a_flag_gets_round_its_setting(data):
    flag = data.draw(st.sampled_from(sorted(SAID_BY_SETTINGS)))
    words = data.draw(spelt(flag))
    parser = argparse.ArgumentParser(add_help=False)
    for name in (*SETTINGS, *OTHERS):
        parser.add_argument(name)
    taken, _ = parser.parse_known_args([word.replace("_", "-") for word in words])
    assert getattr(taken, flag[2:].replace("-", "_")) == "x"  # argparse does take it for that

    assert SETTINGS[flag] in (refused(["--seed", "1", *words]) or "")


@pytest.mark.parametrize(
    "words",
    [
        ("--seed", "1", "--served-model-name", "a"),
        ("--hf-token", "x"),
        ("--api-server-count", "2"),
        ("--pooler-config", "{}"),
        ("-tp", "2"),
        ("--chat-template", "host"),
        ("--host-something-else", "1"),
    ],
)
def test_other_flags_pass(words):
    assert refused(words) is None


@pytest.mark.parametrize("key", ["api-key", "api_key", "uds", "ssl-keyfile"])
def test_a_file_of_arguments_gets_round_nothing_either(tmp_path, key):
    file = tmp_path / "vllm.yaml"
    file.write_text(f"seed: 1\n{key}: x\n")
    assert SETTINGS[f"--{key.replace('_', '-')}"] in (refused(["--config", str(file)]) or "")
    file.write_text("seed: 1\n")
    assert refused(["--config", str(file)]) is None
    assert refused(["--config", str(tmp_path / "none.yaml")]) is None


def test_the_sentence_names_the_setting_and_never_the_value(monkeypatch):
    monkeypatch.setenv("SERVE_EXTRA_ARGS", "--seed 1 --api-key topsecret")
    with pytest.raises(
        ConfigurationError, match=r"^SERVE_EXTRA_ARGS must not hold --api-key: set SERVE_API_KEY"
    ) as caught:
        ServeSettings.load()
    assert "topsecret" not in str(caught.value)
    assert caught.value.exit_status == 2


@pytest.mark.parametrize("arguments", [("serve", "--dry-run"), ("doctor",), ("export", "helm", "--gpus", "1x H100")])
def test_every_command_refuses_it(arguments):
    command = [sys.executable, "-m", "serving", *arguments]
    env = clean_environment(SERVE_EXTRA_ARGS="--host=0.0.0.0")
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "SERVE_HOST" in done.stderr
