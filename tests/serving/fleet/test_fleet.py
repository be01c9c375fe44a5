"""A fleet of stand-in engines under streams without pause: whatever is done to it, no answer is lost or shortened."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import aiohttp
import psutil
import pytest

from client import LLMClient
from tests.serving.fleet.steady import Steady
from tests.support.fake_vllm import install
from tests.support.fleet import FleetRun, words
from tests.support.serving import ROOT, clean_environment

KEY = "a-key-of-the-fleet"
TOKENS = [f" word{number}" for number in range(12)]


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    program = install(tmp_path_factory.mktemp("engine"))
    return {"SERVE_ENGINE": str(program), "SERVE_API_KEY": KEY, "FAKE_VLLM_LOAD": "1"}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory, settings):
    run = FleetRun(tmp_path_factory.mktemp("fleet"), **settings)
    try:
        run.wait_for(" serves: ", times=2)
        yield run
        # Whatever was done to it: nothing is left after its own process was killed.
        family = run.descendants()
        assert len(family) > 6
        run.process.kill()
        run.process.wait(10)
        assert psutil.wait_procs(family, 60)[1] == []
    finally:
        run.close()


def steady(run: FleetRun) -> Steady:
    body = {"model": "tryout-smollm2-135m", "fake": {"tokens": TOKENS, "interval": 0.05}}
    return Steady(f"{run.base_url}/chat/completions", body, len(TOKENS), KEY)


async def reloaded(run: FleetRun, *arguments: str) -> tuple[int, str]:
    """Return the exit status of a reload, and what it said."""
    process = run.reload(*arguments)
    output, _ = await asyncio.to_thread(process.communicate)
    return process.returncode, output


def max_num_seqs(run: FleetRun) -> set[str]:
    """Return the setting that the engines run with."""
    found = [words(engine) for engine in run.engines()]
    assert len(found) == 2
    return {argv[argv.index("--max-num-seqs") + 1] for argv in found}


def test_the_front_passes_on_what_is_vllms_and_keeps_the_routers_management_closed(fleet):
    assert fleet.get("/health")[0] == 200
    assert fleet.get("/v1/models")[0] == 401
    assert fleet.get("/v1/models", KEY)[2]["data"][0]["id"] == "tryout-smollm2-135m"
    for path in ("/list_workers", "/workers", "/workers/http:%2F%2F127.0.0.1", "/get_loads", "/%6cist_workers"):
        assert fleet.get(path, KEY)[0] == 404
    for path in ("//list_workers", "/v1/../list_workers", "/list_workers/"):
        assert "urls" not in str(fleet.get(path, KEY))
    assert fleet.get("/version", KEY)[2] == {"version": "fake"}
    running = "vllm:num_requests_running"
    assert [f'replica="{number}"' in str(fleet.get("/metrics", KEY)[2]) for number in (1, 2, 3)] == [True, True, False]
    assert str(fleet.get("/metrics", KEY)[2]).count(f"# TYPE {running} ") == 1


async def test_an_answer_that_breaks_off_is_never_taken_for_whole_and_one_that_nobody_reads_is_ended(fleet):
    body = {"model": "tryout-smollm2-135m", "messages": [], "stream": True}
    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(fleet.base_url + "/", headers=headers) as session:
        cut = {"tokens": TOKENS, "interval": 0.01, "cut_after": 5}
        async with session.post("chat/completions", json={**body, "fake": cut}) as response:
            assert response.status == 200
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()

        endless = {"tokens": TOKENS * 1000, "interval": 0.01}
        async with session.post("chat/completions", json={**body, "fake": endless}) as response:
            await response.content.readany()
        while sum(fleet.get("/fake", KEY)[2]["running"] for _ in range(2)):  # each engine in turn
            await asyncio.sleep(0.1)


async def test_a_reload_under_streams_loses_none_and_brings_the_new_setting(fleet, settings):
    fleet.write(**settings, SERVE_MAX_NUM_SEQS="7")
    async with (streams := steady(fleet)).streams(16):
        await streams.more(16)
        status, said = await reloaded(fleet)
        await streams.more(32)
    assert (status, streams.failures) == (0, []), said
    assert max_num_seqs(fleet) == {"7"}


@pytest.mark.parametrize(
    ("changed", "status", "said"),
    [
        (
            {"FAKE_VLLM_FAIL": "CUDA out of memory"},
            1,
            "serves with the old settings; the other engines were left alone",
        ),
        ({"SERVE_MAX_NUM_SEQS": "many"}, 2, "SERVE_MAX_NUM_SEQS='many' is not allowed"),
        pytest.param(
            {"SERVE_ENGINE": "/nowhere/vllm"},
            1,
            "Nothing was touched. error: SERVE_ENGINE='/nowhere/vllm'",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"FLEET_ENGINES": "3"}, 1, "Nothing was touched. The new settings mean 3 engines", marks=pytest.mark.slow
        ),
    ],
)
async def test_settings_that_cannot_start_leave_all_engines_serving_and_the_status_says_so(
    fleet, settings, changed, status, said
):
    before = max_num_seqs(fleet)
    fleet.write(**{**settings, "SERVE_MAX_NUM_SEQS": "9"} | changed)
    async with (streams := steady(fleet)).streams(8):
        answer = await reloaded(fleet)
        await streams.more(16)
    assert streams.failures == []
    assert answer[0] == status
    assert said in answer[1]
    assert max_num_seqs(fleet) == before


@pytest.mark.slow
async def test_a_reload_that_is_broken_off_is_repaired_by_the_next(fleet, settings):
    fleet.write(**settings, SERVE_MAX_NUM_SEQS="11")
    async with (streams := steady(fleet)).streams(8):
        process = fleet.reload()
        assert process.stdout is not None
        while "starting" not in await asyncio.to_thread(process.stdout.readline):
            pass
        process.send_signal(signal.SIGINT)
        await asyncio.to_thread(process.communicate)
        await asyncio.to_thread(fleet.wait_for, "Broken off: 1 of 2 engines have the new settings.")
        assert len(max_num_seqs(fleet)) == 2
        status, said = await reloaded(fleet)
        await streams.more(16)
    assert (status, streams.failures) == (0, []), said
    assert max_num_seqs(fleet) == {"11"}


def block(name: str) -> str:
    """Return the commands of a part of serving/README.md."""
    page = (ROOT / "serving" / "README.md").read_text()
    return page.partition(f"<!-- {name}: begin -->\n```sh\n")[2].partition("```")[0]


@pytest.mark.slow
async def test_the_pages_commands_upgrade_vllm_and_go_back(fleet, settings, tmp_path):
    """As they stand there, but for `make`: a stand-in for it installs another stand-in engine."""
    make = tmp_path / "make"
    make.write_text(
        f"#!/bin/sh\ncase $1 in setup-engine) mkdir -p $ENGINE_VENV/bin; cp {settings['SERVE_ENGINE']} $ENGINE_VENV/bin;;"
        f" *) exec {sys.executable} -m serving $1;; esac\n"
    )
    make.chmod(0o755)
    environment = clean_environment(PYTHONPATH=str(ROOT), SERVE_PORT=str(fleet.port))
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    env = fleet.folder / ".env"
    env.write_text(env.read_text().replace("SERVE_ENGINE=", "export SERVE_ENGINE="))  # in the place of the default
    for name, shown in (("upgrade", True), ("roll back", False)):
        commands = "set -e\n" + block(name)
        assert commands.count("\n") >= 3
        async with (streams := steady(fleet)).streams(8):
            run = await asyncio.create_subprocess_exec("bash", "-c", commands, cwd=fleet.folder, env=environment)
            assert await run.wait() == 0
            await streams.more(8)
        assert streams.failures == []
        assert [".venv-engine-next/bin/vllm" in str(words(engine)) for engine in fleet.engines()] == [shown] * 2
    assert not (fleet.folder / ".venv-engine-next").exists()


def test_the_pages_commands_leave_nothing_of_the_kit(tmp_path):
    made = (".venv", ".venv-engine", ".venv-engine-next")
    cached = (".cache/gemma-vllm-kit", ".cache/vllm", ".cache/huggingface/hub/models--google--gemma-3-27b-it")
    for name in (*made, *cached, ".cache/huggingface/hub/models--another"):
        (tmp_path / name).mkdir(parents=True)
    subprocess.run(
        ["bash", "-ec", block("uninstall")], cwd=tmp_path, env={**os.environ, "HOME": str(tmp_path)}, check=True
    )
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not any(path.iterdir())] == [
        ".cache/huggingface/hub/models--another"
    ]


async def test_after_kill_of_one_engine_the_others_streams_go_on_and_it_comes_back(fleet):
    back = sum(" serves: " in line for line in fleet.output) + 1
    async with (streams := steady(fleet)).streams(16):
        await streams.more(16)
        fleet.engines()[0].kill()
        await streams.more(32) if not streams.failures else None
        await asyncio.to_thread(fleet.wait_for, " serves: ", times=back)
        lost = len(streams.failures)
        await asyncio.sleep(0)
        streams.failures.clear()
        await streams.more(32)
    assert streams.failures == []
    assert lost < 16  # those that ran on it, and no new one
    assert len(fleet.engines()) == 2


@pytest.mark.slow
async def test_one_engine_says_how_long_the_gap_is_and_callers_are_told_when_to_come_again(tmp_path, settings):
    run = FleetRun(tmp_path, **settings, FLEET_ENGINES="1")
    try:
        run.wait_for("once the first engine serves")
        status, headers, body = run.get("/v1/models", KEY)
        assert (status, body["error"]["message"]) == (503, "No engine is ready yet.")
        assert int(headers["Retry-After"]) > 0
        async with LLMClient(run.base_url, KEY, "tryout-smollm2-135m") as llm:
            await llm.wait_until_ready(120)
        assert "there is a gap of about" in (await reloaded(run, "--dry-run"))[1]

        process = run.reload()
        await asyncio.to_thread(run.wait_for, "is out of the router.")
        status, headers, _ = run.get("/health")
        assert status == 503
        assert int(headers["Retry-After"]) > 0
        async with LLMClient(run.base_url, KEY, "tryout-smollm2-135m", max_retries=20) as llm:
            assert await llm.generate([{"role": "user", "content": "Are you there?"}])
        output, _ = await asyncio.to_thread(process.communicate)
        assert process.returncode == 0, output
        assert "callers get 503 with Retry-After" in output

        async with (streams := steady(run)).streams(4):
            await streams.more(4)
            family = [*run.descendants()]
            run.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(run.wait_for, "Stopping")
        assert all(failure.startswith(("HTTP 503", "Client")) for failure in streams.failures)
        assert run.wait() == 0
        assert psutil.wait_procs(family, 30)[1] == []
    finally:
        run.close()


@pytest.mark.slow
def test_settings_that_no_engine_can_start_with_end_the_fleet_with_their_status(tmp_path, settings):
    run = FleetRun(tmp_path, **settings, FAKE_VLLM_FAIL="CUDA out of memory")
    try:
        assert run.wait() == 1
        assert any("No engine of the fleet came up" in line for line in run.output)
    finally:
        run.close()
