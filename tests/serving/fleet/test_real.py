"""Two real engines without a GPU under streams without pause, and stand-ins that load as long as real ones."""

from __future__ import annotations

import asyncio
import signal

import psutil
import pytest

from tests.serving.fleet.test_fleet import KEY, TOKENS, max_num_seqs, reloaded, steady
from tests.support.fake_vllm import install
from tests.support.fleet import FleetRun
from tests.support.steady import Steady


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
    settings = {"SERVE_API_KEY": KEY, "SERVE_MAX_MODEL_LEN": "1024", "SERVE_KV_CACHE_SPACE_GIB": "1"}
    run = FleetRun(tmp_path, **settings)
    body = {"model": "tryout-smollm2-135m", "max_tokens": 24, "ignore_eos": True}
    streams = Steady(f"{run.base_url}/chat/completions", body, key=KEY, end='"finish_reason":"length"')
    try:
        await asyncio.to_thread(run.wait_for, " serves: ", times=2)
        async with streams.streams(4):
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
            assert len(streams.failures) <= 4  # those that ran on it
            streams.failures.clear()
            await streams.more(8)
            assert streams.failures == []
        family = run.descendants()
        run.process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(run.process.wait, 10)
        assert (await asyncio.to_thread(psutil.wait_procs, family, 60))[1] == []
    finally:
        run.close()
