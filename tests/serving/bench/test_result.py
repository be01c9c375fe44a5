"""A result as table, picture, page and JSON, and the command from its options to what it keeps."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shlex
import threading
import xml.etree.ElementTree as ET

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from serving.__main__ import main
from serving.bench import result as results
from serving.bench.goal import Goal
from serving.bench.level import Level, OwnCost, Planned, ServerView, Spread
from serving.bench.picture import svg
from serving.bench.result import Result
from serving.bench.table import show, show_two
from serving.bench.web_page import page
from serving.errors import ConfigurationError
from tests.support.fake_openai import FakeOpenAI, models, piece, reply
from tests.support.serving import ROOT, clean_environment

HOSTILE = "<script>alert(1)</script>\"'&\x1b]0;owned\x07"

positive = st.floats(0.001, 1e5)
spreads = st.one_of(st.none(), st.builds(Spread, positive, positive))
levels = st.builds(
    Level,
    load=st.integers(1, 500).map(float),
    seconds=positive,
    requests=st.integers(1, 1000),
    errors=st.dictionaries(st.sampled_from(["ServerError", "LLMTimeoutError"]), st.integers(1, 9)),
    tokens_per_second=st.floats(0, 1e5),
    prompt_tokens_per_second=st.floats(0, 1e5),
    requests_per_second=st.floats(0, 1e5),
    at_once=st.floats(0, 500),
    first_token=spreads,
    speed=spreads,
    whole=spreads,
    estimated=st.booleans(),
    own=st.builds(OwnCost, st.floats(0, 2), st.one_of(st.none(), positive), st.floats(0, 1)),
    server=st.one_of(st.none(), st.builds(ServerView, st.one_of(st.none(), st.floats(0, 1)))),
)
any_result = st.builds(
    Result,
    made=st.just("2026-11-25T12:00:00+00:00"),
    target=st.just("http://127.0.0.1:8000/v1"),
    model=st.sampled_from(["a/model", HOSTILE]),
    commit=st.sampled_from([None, "abc1234"]),
    kind=st.sampled_from(["users", "rate"]),
    prompt=st.integers(1, 10_000),
    answer=st.sampled_from([(128, 128), (64, 256)]),
    equal=st.booleans(),
    goal=st.builds(Goal, positive, positive),
    usd_per_hour=st.one_of(st.none(), positive),
    planned=st.builds(Planned, st.one_of(st.none(), st.integers(1, 10**6)), st.one_of(st.none(), positive), st.none()),
    levels=st.lists(levels, max_size=6, unique_by=lambda level: level.load).map(
        lambda found: tuple(sorted(found, key=lambda level: level.load))
    ),
)


def shown(draw, *given_):
    text = io.StringIO()
    draw(*given_, Console(file=text, width=120, highlight=False))
    return text.getvalue()


@settings(max_examples=60)
@given(any_result)
def test_any_result_can_be_shown_drawn_kept_and_read_again(tmp_path_factory, result):
    kept = tmp_path_factory.mktemp("kept") / "result.json"
    kept.write_bytes(results.to_json(result))
    assert results.read(kept) == result
    assert result.verdict() in shown(show, result).replace("\n", " ") or len(result.verdict()) > 118
    shown(show_two, result, result)
    root = ET.fromstring(svg(result))
    assert {element.tag.rpartition("}")[2] for element in root.iter()} <= {
        "svg", "style", "rect", "text", "path", "polyline", "circle",
    }  # fmt: skip
    for element in root.iter():
        for name in ("x", "y", "cx", "cy"):
            if name in element.attrib:
                assert -1 <= float(element.attrib[name]) <= 1000
    html = page(result)
    assert "<script" not in html
    assert not re.search(r"(src|href)=", html)
    assert "default-src 'none'" in html


def test_a_kept_result_with_other_content_is_a_sentence(tmp_path):
    for text in (b"", b"{}", b"[1]", b'{"format": 1}', b"\xff\xfe", b"nonsense"):
        path = tmp_path / "old.json"
        path.write_bytes(text)
        with pytest.raises(ConfigurationError, match=r"old\.json is no result of"):
            results.read(path)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        results.read(tmp_path / "none.json")


def test_dollars_for_a_million_tokens():
    level = json.loads(EXAMPLE)["levels"][0]
    result = msgspec.json.decode(EXAMPLE, type=Result)
    assert level["tokens_per_second"] == 500
    assert result.usd_per_million(result.levels[0]) == pytest.approx(1.80 / (500 * 3600) * 1e6)
    said = " ".join(result.remarks())
    assert "a million written tokens cost $1.00 ($1.8 an hour)" in said
    assert "filled to 31% of the 23,296 tokens planned; the plan is 2.8 requests of 8,192 tokens at once" in said
    assert "40 us of CPU a token" in said


EXAMPLE = b"""{"format": 1, "made": "2026-11-25T12:00:00+00:00", "target": "http://127.0.0.1:8000/v1", "model": "m",
"commit": null, "kind": "users", "prompt": 256, "answer": [128, 128], "equal": true,
"goal": {"first_token": 0.5, "speed": 20}, "usd_per_hour": 1.8,
"planned": {"tokens": 23296, "requests": 2.8, "length": 8192},
"levels": [{"load": 8, "seconds": 20, "requests": 40, "errors": {}, "tokens_per_second": 500,
"prompt_tokens_per_second": 900, "requests_per_second": 2, "at_once": 8,
"first_token": {"median": 0.2, "tail": 0.3}, "speed": {"median": 30, "tail": 25}, "whole": {"median": 4, "tail": 5},
"estimated": false, "own": {"cpu_share": 0.02, "cpu_us_per_token": 40, "late": 0.001},
"server": {"kv_cache": 0.31, "running": 8, "waiting": 0, "preemptions": 0}}]}"""


def answer(first=0.03, each=0.002, words_tokens=1.0, takes_ignore_eos=True):
    """Return what counts a prompt's words as tokens (and 9 more), and writes `max_tokens` tokens at a known speed."""

    async def respond(exchange):
        body = exchange.json
        if "ignore_eos" in body and not takes_ignore_eos:
            refusal = {"error": {"message": "Unrecognized request argument supplied: ignore_eos", "code": 400}}
            return await reply(400, refusal)(exchange)
        prompt = 9 + int(words_tokens * len(body["messages"][0]["content"].split()))
        tokens = body["max_tokens"]
        await asyncio.sleep(first)
        await exchange.head()
        for _ in range(tokens):
            await exchange.event(piece("x"))
            await asyncio.sleep(each)
        await exchange.event(piece(finish="length"))
        usage = {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
        await exchange.event({**piece(), "choices": [], "usage": usage})
        await exchange.event(b"[DONE]")
        await exchange.end()
        return None

    return respond


METRICS = 'vllm:kv_cache_usage_perc{engine="0"} 0.25\nvllm:num_requests_running{engine="0"} 2.0\nother 1\n'
ABOUT = {"limits": {"requests": 2.8, "length": 8192, "tokens": 23296}}


@pytest.fixture
def server():
    """A stand-in on a loop of its own, as the command runs a loop, too."""
    made = FakeOpenAI()
    made.default = answer()
    made.routes |= {
        "/v1/models": models("the-model"),
        "/metrics": reply(200, METRICS, "text/plain"),
        "/ui/about.json": reply(200, ABOUT),
    }
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(made.__aenter__(), loop).result(10)
    yield made
    asyncio.run_coroutine_threadsafe(made.__aexit__(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


@pytest.fixture
def bench(monkeypatch, tmp_path, capsys, server):
    def run(*arguments, **variables):
        monkeypatch.chdir(tmp_path)
        for name in set(os.environ) - set(clean_environment()):
            monkeypatch.delenv(name)
        for name, value in {"LLM_BASE_URL": server.base_url, **variables}.items():
            monkeypatch.setenv(name, value)
        status = main(["bench", *arguments])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


SHORT = ("--seconds", "0.3", "--prompt", "60", "--answer", "10", "--speed", "1", "--first-token", "30s")


def test_the_command_asks_for_what_it_says_and_shows_what_it_found(bench, server, tmp_path):
    status, out, _ = bench(*SHORT, "--users", "1,2", "--price", "1x NVIDIA L40S", "--save", "kept")
    assert status == 0
    assert "At least 2 users at a first token below 30 s and 1 tokens/s each." in out
    assert "…" not in out, "all of the table fits into 80 columns"
    assert "$/M" in out
    assert "25%" in out
    assert "filled to 25% of the 23,296 tokens planned" in out.replace("\n", " ")
    asked = [exchange.json for exchange in server.requests[3:]]
    assert {body["max_tokens"] for body in asked} == {10}
    assert all(body["ignore_eos"] and body["model"] == "the-model" for body in asked)
    prompts = [body["messages"][0]["content"] for body in asked]
    assert {len(prompt.split()) + 9 for prompt in prompts} == {60}, "the length that was asked, as the server counts"
    assert len({tuple(prompt.split()[:6]) for prompt in prompts}) == len(prompts), "no prefix cache may answer"
    made = sorted((tmp_path / "kept").iterdir())
    assert [path.suffix for path in made] == [".html", ".json", ".svg"]
    kept = results.read(made[1])
    assert kept.usd_per_hour == 1.91
    assert [level.load for level in kept.levels] == [1, 2]
    assert kept.levels[1].tokens_per_second > 0
    assert kept.commit is None or re.fullmatch(r"[0-9a-f]{7,}\+?", kept.commit)
    status, out, _ = bench("--compare", str(made[1]), str(made[1]))
    assert (status, out.count("+0%")) == (0, 6)


def test_the_readmes_command_works(bench, tmp_path):
    [line] = re.findall(r'^make bench ARGS="(.*)"$', (ROOT / "serving" / "README.md").read_text(), re.MULTILINE)
    status, out, _ = bench(*shlex.split(line), "--users", "1", "--seconds", "0.2", "--answer", "8")
    assert status == 0
    assert "a first token below 500 ms and 20 tokens/s each" in out
    assert len(list((tmp_path / "bench-results").iterdir())) == 3


def test_json_stands_alone_on_stdout(bench, server):
    server.default = answer(takes_ignore_eos=False)
    status, out, err = bench(*SHORT, "--rates", "40", "--json")
    assert status == 0
    found = json.loads(out)
    assert found["kind"] == "rate"
    assert found["equal"] is False
    assert found["levels"][0]["load"] == 40
    assert "40 requests/s" in err


def test_the_goal_ends_it(bench):
    status, out, _ = bench("--seconds", "0.2", "--prompt", "20", "--answer", "8", "--first-token", "1ms")
    assert status == 0
    assert "Not even 1 user at a first token below 1 ms" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--users", "0"), "--users='0' is not allowed"),
        (("--users", "a,b"), "--users='a,b' is not allowed"),
        (("--users", "1", "--rates", "1"), "exclude each other"),
        (("--first-token", "soon"), "--first-token='soon' is not allowed"),
        (("--speed", "-1"), "--speed=-1 is not allowed"),
        (("--answer", "1"), "--answer='1' is not allowed"),
        (("--answer", "200-100"), "is not allowed"),
        (("--prompt", "0"), "--prompt=0 is not allowed"),
        (("--price", "1x NVIDIA T4"), "give USD an hour"),
        (("--price", "cheap"), "--price"),
        (("--seconds", "0"), "--seconds=0 is not allowed"),
        (("--compare", "none.json"), "none.json cannot be read"),
    ],
)
def test_what_makes_no_sense_is_a_sentence_before_any_request(bench, server, arguments, said):
    status, out, err = bench(*arguments)
    assert (status, out) == (2, "")
    assert said in err
    assert server.requests == []


@pytest.mark.parametrize(("name", "value"), [("LLM_MAX_CONCURRENCY", "2"), ("LLM_FALLBACK_BASE_URL", "http://a/v1")])
def test_settings_that_would_falsify_it_are_refused(bench, name, value):
    status, _, err = bench(*SHORT, **{name: value})
    assert status == 2
    assert f"{name} would" in err


def test_a_server_that_refuses_is_a_sentence(bench, server):
    server.default = reply(401, {"error": {"message": "no", "code": 401}})
    status, _, err = bench(*SHORT, LLM_MODEL="the-model")
    assert status == 1
    assert "The load test cannot begin: " in err
    assert "Traceback" not in err
