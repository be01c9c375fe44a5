"""Two real engines without a GPU under steady streams, and stand-ins that load as long as real ones."""

from __future__ import annotations

import asyncio
import json
import signal
import urllib.error
import urllib.request

import psutil
import pytest

from serving.vllm_side.middleware.api_keys import Key, digest
from tests.serving.fleet.steady import Steady
from tests.serving.fleet.test_fleet import KEY, TOKENS, max_num_seqs, reloaded, steady
from tests.support.fake_vllm import install
from tests.support.fleet import FleetRun


def ask(run: FleetRun, key: str) -> int:
    """Ask one short question; return the status."""
    body = {"model": "tryout-smollm2-135m", "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}
    request = urllib.request.Request(f"{run.base_url}/chat/completions", json.dumps(body).encode())
    request.add_header("Authorization", f"Bearer {key}")
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code if "Retry-After" in error.headers else 0


@pytest.mark.slow
async def test_engines_that_load_for_75_s_are_reloaded_without_a_lost_answer(tmp_path):
    settings = {"SERVE_ENGINE": str(install(tmp_path)), "SERVE_API_KEY": KEY, "FAKE_VLLM_LOAD": "75"}
    run = FleetRun(tmp_path, **settings)
    try:
        await asyncio.to_thread(run.wait_for, " serves: ", times=2)
        run.write(**settings, SERVE_MAX_NUM_SEQS="7")
        async with (streams := steady(run)).streams(16):
            await streams.more(16)
            status, said = await reloaded(run)
            await streams.more(32)
        assert (status, streams.failures) == (0, []), said
        assert max_num_seqs(run) == {"7"}
        assert streams.whole > 16 * 150 / (len(TOKENS) * 0.05) / 4  # they did run all the time
    finally:
        run.close()


@pytest.mark.engine
@pytest.mark.slow
async def test_real_engines_are_reloaded_killed_and_kept_up_without_a_lost_answer(tmp_path):
    limited = "a-limited-key"
    keys = tmp_path / "keys.txt"
    keys.write_text(Key("ann", digest(limited.encode()), per_minute=3).line())
    settings = {"SERVE_API_KEY": KEY, "SERVE_API_KEYS_FILE": str(keys), "SERVE_MAX_MODEL_LEN": "1024"}
    run = FleetRun(tmp_path, **settings)
    body = {"model": "tryout-smollm2-135m", "max_tokens": 16, "ignore_eos": True}
    # On a machine without a GPU, streams without pause would leave nothing to start an engine with.
    streams = Steady(f"{run.base_url}/chat/completions", body, key=KEY, end='"finish_reason":"length"', pause=2.0)
    try:
        await asyncio.to_thread(run.wait_for, " serves: ", times=2)
        for asked, status in enumerate((200, 200, 200, 429, 429)):  # counted over both engines
            answer = await asyncio.to_thread(ask, run, limited)
            assert answer == status, asked
        async with streams.streams(3):
            await streams.more(8)
            run.write(**settings, SERVE_MAX_NUM_SEQS="7")
            status, said = await reloaded(run)
            assert (status, streams.failures) == (0, []), said
            assert max_num_seqs(run) == {"7"}

            run.write(**settings, SERVE_EXTRA_ARGS="--no-such-flag")
            status, said = await reloaded(run)
            assert (status, streams.failures) == (1, []), said
            assert "serves with the old settings" in said
            assert max_num_seqs(run) == {"7"}

            back = sum(" serves: " in line for line in run.output) + 1
            run.engines()[0].kill()
            await asyncio.to_thread(run.wait_for, " serves: ", times=back)
            assert len(streams.failures) <= 3  # those that ran on it
            streams.failures.clear()
            await streams.more(8)
            assert streams.failures == []
        family = run.descendants()
        run.process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(run.process.wait, 10)
        assert (await asyncio.to_thread(psutil.wait_procs, family, 60))[1] == []
    finally:
        run.close()
