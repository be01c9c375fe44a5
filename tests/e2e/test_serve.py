"""The spine, end to end: `make serve` starts the real vLLM, the real client asks it."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import psutil
import pytest

from client import LLMClient
from tests.support.serving import ROOT, Serve, ask, clean_environment

pytestmark = pytest.mark.engine

MODEL = "tryout-smollm2-135m"
QUESTION = "What is the capital of France?"


def status(server, path, key=None, method="GET"):
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}{path}", method=method, data=b"{}" if method == "POST" else None
    )
    request.add_header("Content-Type", "application/json")
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def running_requests(server):
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}/metrics")
    request.add_header("Authorization", f"Bearer {server.key}")
    with urllib.request.urlopen(request, timeout=30) as response:
        gauges = re.findall(r"^vllm:num_requests_running\{.*\} ([\d.]+)$", response.read().decode(), re.MULTILINE)
    return sum(map(float, gauges))


async def until(condition, within=30.0):
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


def client_for(server, **kwargs):
    return LLMClient(base_url=server.base_url, api_key=server.key, **({"model": MODEL} | kwargs))


def test_it_says_what_it_serves_and_how_to_ask(smollm):
    text = "\n".join(smollm.output)
    assert "TRY-OUT MODEL, NOT GEMMA 3 27B" in text
    assert re.search(rf"^Ready after [\d.]+ s: http://127.0.0.1:{smollm.port}/v1$", text, re.MULTILINE)
    assert re.search(r"^  context  [\d,]+ tokens per request$", text, re.MULTILINE)
    for phase in (*(f"starting vLLM, {n} of 3 processes" for n in (1, 2, 3)), "loading weights", "compiling"):
        assert re.search(rf"^\[ *[\d.]+s\] {phase}$", text, re.MULTILINE)


def test_the_printed_command_asks_the_question(smollm):
    command = next(line.split(None, 1)[1] for line in smollm.output if line.startswith("  ask "))
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        env=clean_environment(SERVE_API_KEY=smollm.key),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert "Paris" in done.stdout, done.stderr


def test_the_client_finds_the_one_model_by_itself(smollm):
    done = ask(smollm, QUESTION, LLM_API_KEY=smollm.key)
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout


async def test_text_arrives_in_pieces(smollm):
    async with client_for(smollm) as client:
        pieces = [
            piece async for piece in client.generate_streaming([{"role": "user", "content": QUESTION}], temperature=0)
        ]
        whole = await client.generate([{"role": "user", "content": QUESTION}], temperature=0)
    assert len(pieces) > 3
    assert "".join(pieces) == whole
    assert "Paris" in whole


async def test_a_broken_off_stream_frees_the_engine(smollm):
    messages = [{"role": "user", "content": "Count from one to a thousand, in words."}]
    async with client_for(smollm, max_tokens=1500) as client:
        async for _ in client.generate_streaming(messages):
            assert running_requests(smollm) == 1
            break
        await until(lambda: running_requests(smollm) == 0)


async def test_a_cancelled_generate_frees_the_engine(smollm):
    messages = [{"role": "user", "content": "Count from one to a thousand, in words."}]
    async with client_for(smollm, max_tokens=1500) as client:
        task = asyncio.create_task(client.generate(messages))
        await until(lambda: running_requests(smollm) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: running_requests(smollm) == 0)


def test_a_wrong_model_name_is_said_with_the_right_one(smollm):
    done = ask(smollm, QUESTION, LLM_API_KEY=smollm.key, LLM_MODEL="google/gemma-3-27b-it")
    assert done.returncode == 1
    assert MODEL in done.stderr
    assert "google/gemma-3-27b-it" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_key_only_the_probes_and_the_empty_page_answer(smollm):
    for path in ("/health", "/ping", "/", "/ui/page.js"):
        assert status(smollm, path) == 200
    guarded = ("/v1/models", "/metrics", "/version", "/docs", "/openapi.json", "/load", "/ui/about.json")
    assert {status(smollm, path) for path in guarded} == {401}
    posted = ("/v1/chat/completions", "/invocations", "/tokenize", "/v1/completions", "/inference/v1/generate")
    assert {status(smollm, path, method="POST") for path in posted} == {401}
    assert {status(smollm, path, "wrong", "POST") for path in posted} == {401}
    assert status(smollm, "/v1/models", smollm.key) == 200


def test_a_wrong_key_reaches_the_user_as_such(smollm):
    done = ask(smollm, QUESTION, LLM_API_KEY="wrong-key", LLM_MODEL=MODEL)
    assert done.returncode == 1
    assert "LLM_API_KEY" in done.stderr
    assert "wrong-key" not in done.stderr + done.stdout


def test_no_process_shows_the_key(smollm):
    shown = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert len(smollm.descendants()) >= 4
    assert not [line for line in shown if smollm.key in line]
    assert smollm.key not in smollm.log.read_text() + "\n".join(smollm.output)


def test_the_supervisor_is_small(smollm):
    assert smollm.supervisor.memory_info().rss < 100e6


def test_a_second_server_on_the_port_is_refused_with_its_holder(smollm):
    second = Serve({"SERVE_API_KEY": "x"}, port=smollm.port)
    try:
        assert second.wait() != 0
    finally:
        second.close()
    text = "\n".join(second.output)
    assert f"Port {smollm.port} is taken by" in text
    assert "Traceback" not in text


@pytest.mark.ends_engine
async def test_a_killed_vllm_comes_back_and_sigterm_lets_a_stream_finish(smollm):
    before = smollm.descendants()
    smollm.engine().kill()
    smollm.wait_for("vLLM was killed (SIGKILL)")
    smollm.wait_for("  ask ", times=2)
    assert "Paris" in ask(smollm, QUESTION, LLM_API_KEY=smollm.key).stdout

    family = smollm.descendants()
    supervisor = smollm.supervisor
    assert {p.pid for p in before} & {p.pid for p in family} == {supervisor.pid}
    async with client_for(smollm, max_tokens=60) as client:
        stream = client.stream([{"role": "user", "content": "Tell me a long story."}], ignore_eos=True)
        async with stream:
            async for _ in stream:
                if supervisor.is_running() and len(stream.text) > 20:
                    supervisor.send_signal(signal.SIGTERM)
                    break
            async for _ in stream:
                pass
        assert stream.finish_reason == "length"
    assert await asyncio.to_thread(smollm.wait) == 0
    assert not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.slow
def test_a_vllm_that_hangs_comes_back_and_a_long_prefill_is_left_alone() -> None:
    """The real engine, three starts: a prompt that takes longer than the patience, a stopped core, all of it stopped."""
    server = Serve({"SERVE_STALL_TIMEOUT": "5"}, command=(sys.executable, "-m", "serving", "serve"))
    try:
        server.wait_for("  ask ")
        first = server.engine()
        assert ask(server, "word " * 2500, LLM_MAX_TOKENS="2", LLM_FIRST_TOKEN_TIMEOUT="170").returncode == 0
        assert server.engine() == first
        core = next(process for process in first.children() if "EngineCore" in " ".join(process.cmdline()))
        core.send_signal(signal.SIGSTOP)
        server.wait_for("its engine core is stopped")
        server.wait_for("  ask ", times=2)
        assert "Paris" in ask(server, QUESTION).stdout
        server.engine().send_signal(signal.SIGSTOP)
        server.wait_for("has not answered /health")
        server.wait_for("  ask ", times=3)
        assert "Paris" in ask(server, QUESTION).stdout
        family = server.descendants()
        server.supervisor.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        assert not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        assert "Traceback" not in "\n".join(server.output)
    finally:
        server.close()


def test_a_killed_supervisor_takes_vllm_along():
    server = Serve(command=(sys.executable, "-m", "serving", "serve"))
    try:
        server.wait_for("starting vLLM, 1 of 3 processes")
        deadline = time.monotonic() + 60
        while len(server.descendants()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        family = server.descendants()
        os.kill(server.process.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(family, timeout=20)
        assert not [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    finally:
        server.close()


def test_gemmas_architecture_and_template_serve_for_real(gemma_270m):
    body = {
        "model": "tryout-gemma-3-270m",
        "prompt": "<bos>Question: What is the capital of Japan?\nAnswer:",
        "max_tokens": 4,
        "temperature": 0,
    }
    request = urllib.request.Request(
        f"{gemma_270m.base_url}/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        assert "Tokyo" in json.load(response)["choices"][0]["text"]
    done = ask(gemma_270m, "Say hello.", LLM_MAX_TOKENS="8")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
