"""How a machine's GPUs are shared out, what an engine is started with, and what the front makes of metrics."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import ConfigurationError
from serving.fleet.front import MANAGEMENT, merged
from serving.fleet.layout import engine_start, lay_out
from serving.fleet.settings import FleetSettings
from serving.settings import ServeSettings
from tests.support.serving import ROOT, clean_environment

H100 = "NVIDIA H100 80GB HBM3"


def layout(gpus: str, engines: int | None = None, **given: object):
    serve = ServeSettings.load(None, gpus=gpus, **given)
    return serve, lay_out(serve, FleetSettings.load(None, engines=engines))


@settings(max_examples=20)
@given(st.integers(1, 16), st.sampled_from([H100, "NVIDIA H200", "NVIDIA L40S", "NVIDIA B200"]))
def test_every_engine_has_as_many_gpus_and_no_gpu_two_engines(count, name):
    _, made = layout(f"{count}x {name}")
    each = {len(share.gpus) for share in made.shares}
    devices = [device for share in made.shares for device in share.devices]
    assert len(each) == 1
    assert len(set(devices)) == len(devices) == len(made.plan.gpus)
    assert each == {made.plan.tensor_parallel_size}


@pytest.mark.parametrize(
    ("gpus", "engines"), [(f"2x {H100}", 1), (f"8x {H100}", 2), ("8x NVIDIA H200", 4), ("none", 2)]
)
def test_a_fleet_has_as_many_engines_as_the_plan_has_copies(gpus, engines):
    assert len(layout(gpus)[1].shares) == engines


@settings(max_examples=20)
@given(st.integers(1, 8), st.integers(1, 8))
def test_as_many_engines_as_are_asked_for_have_an_equal_part_each(count, engines):
    if engines > count:
        with pytest.raises(ConfigurationError, match="each needs a GPU"):
            layout(f"{count}x {H100}", engines)
        return
    _, made = layout(f"{count}x {H100}", engines)
    assert [len(share.devices) for share in made.shares] == [count // engines] * engines
    assert len({device for share in made.shares for device in share.devices}) == count // engines * engines


def test_an_engine_plans_the_copy_that_the_fleet_planned_for_it():
    serve, made = layout(f"8x {H100}", api_key="k", log_file="vllm.log", host="0.0.0.0")
    start = engine_start(2, made.shares[1], serve, clean_environment(SERVE_ENGINE="/bin/true", LLM_BASE_URL="http://a"))
    assert "LLM_BASE_URL" not in start.env
    assert (start.env["SERVE_HOST"], start.env["SERVE_LOG_FILE"], start.env["SERVE_UI"]) == (
        "127.0.0.1",
        "vllm.2.log",
        "0",
    )
    assert "k" not in repr(start)
    command = (sys.executable, "-m", "serving", "serve", "--dry-run", "--env-file", "/dev/null")
    done = subprocess.run(command, cwd=ROOT, env=start.env, capture_output=True, text=True, check=True)
    words = done.stdout.split()
    assert words[words.index("--tensor-parallel-size") + 1] == "4"
    assert "--data-parallel-size" not in words
    assert words[words.index("--max-model-len") + 1] == str(made.plan.max_model_len)


@pytest.mark.parametrize("urls", ["10.0.0.5:8000", "http://a/v1", "ftp://a", "http://u:p@a"])
def test_an_address_that_is_none_is_one_sentence_without_a_password(urls):
    with pytest.raises(ConfigurationError) as caught:
        FleetSettings.load(None, urls=urls)
    assert "must be addresses like http://10.0.0.5:8000" in str(caught.value)
    assert "u:p" not in str(caught.value)


def test_addresses_are_read_once_each_without_a_slash():
    assert FleetSettings.load(None, urls="http://a:1/, https://b http://a:1").urls == ("http://a:1", "https://b")


def test_metrics_of_several_servers_are_one_text_with_each_familys_type_once():
    text = '# HELP vllm:x what\n# TYPE vllm:x counter\nvllm:x_total{m="a"} 2.0\n# TYPE y gauge\ny 1.0\n'
    lines = merged({"1": text, "2": text}).decode().splitlines()
    assert lines.count("# TYPE vllm:x_total counter") == 1
    assert 'vllm:x_total{m="a",replica="1"} 2.0' in lines
    assert 'vllm:x_total{m="a",replica="2"} 2.0' in lines
    assert 'y{replica="2"} 1.0' in lines


@given(st.sampled_from(["/v1/chat/completions", "/tokenize", "/v1/models", "/version", "/", "/ui/page.js", "/metrics"]))
def test_what_is_vllms_is_not_closed(path):
    assert MANAGEMENT.fullmatch(path) is None
