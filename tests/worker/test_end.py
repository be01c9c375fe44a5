"""How a worker ends: on SIGTERM, on vLLM's death, on its own; and what is left then."""

import asyncio
import json
import signal

import psutil
import pytest

from emulation.accidents import Accident, dice
from emulation.endpoint import Emulator
from emulation.rules import Rules
from tests.support.in_process import looping
from tests.support.worker import (
    arguments,
    chat,
    eventually,
    is_gone,
    platform_and_worker,
    run_job,
    running_worker,
)
from worker.job_error import JobError


async def start_stream(platform, **script):
    """Submit a stream and wait for its first chunk."""
    job = await platform.book.submit(chat(**({"tokens": ["x"] * 40, "interval": 0.05} | script)), call="run")
    while not job.chunks:
        await job.change()
    return job


def code_of(job):
    """Return the code of a failed job's error."""
    assert job.status == "FAILED", job.view()
    return json.loads(job.error)["error"]["code"]


async def test_sigterm_lets_jobs_finish_takes_no_other_and_leaves_nothing(tmp_path):
    async with platform_and_worker(tmp_path, WORKER_DRAIN_TIMEOUT="20") as (platform, worker):
        family = worker.family()
        assert len(family) >= 4  # the worker, the SDK's ping process, the reaper, vLLM
        job = await start_stream(platform)
        worker.terminate()
        await asyncio.sleep(0.2)
        late = await platform.book.submit(chat(), call="run")  # the poll that is open brings it: it runs
        assert await worker.exit_status() == 0
        assert job.status == late.status == "COMPLETED"
        assert "".join(job.chunks).endswith("data: [DONE]\n\n")
        await eventually(lambda: all(map(is_gone, family)))


async def test_an_idle_worker_awaits_its_poll_and_does_what_that_brings():
    async with looping(Rules(hold=3)) as worker:
        await worker.platform.workers.taking.wait()
        end = asyncio.create_task(worker.jobs.finish(20.0, JobError(503, "out of time")))
        await asyncio.sleep(0)
        late = await worker.submit(chat(interval=0.05))
        await end
        assert late.status == "COMPLETED"


async def test_a_poll_that_brings_nothing_is_given_up_before_the_drains_end():
    async with looping(Rules(hold=60)) as worker:
        await worker.platform.workers.taking.wait()
        begin = asyncio.get_running_loop().time()
        await worker.jobs.finish(1.0, JobError(503, "out of time"))
        assert asyncio.get_running_loop().time() - begin < 30


async def check_end(tmp_path, end, rules, after):
    """Queue 150 jobs, end the worker when `after` of them are done, and check what became of each."""
    async with platform_and_worker(tmp_path, rules) as (platform, worker):
        jobs = [await platform.book.submit(chat(tokens=["x"] * 10, interval=0.03), call="run") for _ in range(150)]
        await eventually(lambda: sum(job.status == "COMPLETED" for job in jobs) >= after, within=30)
        worker.terminate() if end == "SIGTERM" else worker.vllm().kill()
        assert await worker.exit_status(45) == (0 if end == "SIGTERM" else 1)
        states = [job.status for job in jobs]
        assert states.count("COMPLETED") >= after
        assert states.count("IN_QUEUE") >= 30
        assert states.count("FAILED") <= (0 if end == "SIGTERM" else 30)
        assert "IN_PROGRESS" not in states
        for job in jobs:
            if job.status == "COMPLETED":
                assert "".join(job.chunks).count('"x"') == "".join(job.output).count('"x"') == 10
                assert "".join(job.chunks).endswith("data: [DONE]\n\n")
            elif job.status == "FAILED":
                assert code_of(job) == 503


@pytest.mark.parametrize("end", ["SIGTERM", "vLLM's death"])
async def test_a_backlog_goes_to_others_when_a_worker_ends(tmp_path, end):
    await check_end(tmp_path, end, Rules(hold=1), after=30)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("end", ["SIGTERM", "vLLM's death"])
async def test_ten_backlogs_on_a_platform_that_stumbles(tmp_path, end, seed):
    again = [Accident("status", status) for status in (429, 500, 502)]
    shares = {
        "take": (0.1, [*again, Accident("odd"), Accident("twice"), Accident("html")]),
        "stop": (0.1, again),
        "stream": (0.05, again),
        "done": (0.1, [*again, Accident("reset"), Accident("reset", after=True)]),
        "ping": (0.3, again),
    }
    rules = Rules(latency={"stream": 0.05, "done": 0.05}, hold=3, accidents=dice(seed, shares))
    await check_end(tmp_path, end, rules, after=7 * seed)


async def test_a_job_that_outlasts_the_drain_fails_as_one_to_send_again(tmp_path):
    async with platform_and_worker(tmp_path, WORKER_DRAIN_TIMEOUT="1") as (platform, worker):
        stream = await start_stream(platform, tokens=["x"] * 2000)
        whole = await platform.book.submit(chat(stream=False, delay=60), call="run")
        await eventually(lambda: whole.status == "IN_PROGRESS")
        await asyncio.sleep(0.3)
        worker.terminate()
        assert await worker.exit_status(within=10) == 0
        assert code_of(stream) == code_of(whole) == 503
        assert '"code": 503' in stream.chunks[-1]


async def test_a_second_sigterm_ends_it_now(tmp_path):
    async with platform_and_worker(tmp_path) as (platform, worker):
        family = worker.family()
        await start_stream(platform, tokens=["x"] * 2000)
        worker.terminate()
        await asyncio.sleep(0.3)
        worker.terminate()
        await worker.exit_status(within=5)
        await eventually(lambda: all(map(is_gone, family)))


async def test_vllms_death_fails_the_jobs_in_flight_and_ends_the_worker(tmp_path):
    async with platform_and_worker(tmp_path) as (platform, worker):
        family = worker.family()
        stream = await start_stream(platform, tokens=["x"] * 2000)
        whole = await platform.book.submit(chat(stream=False, delay=60), call="run")
        await eventually(lambda: whole.status == "IN_PROGRESS")
        await asyncio.sleep(0.3)
        worker.vllm().kill()
        assert await stream.finish(3)
        assert await whole.finish(3)
        late = await platform.book.submit(chat(), call="run")
        assert code_of(stream) == code_of(whole) == 503
        assert "vLLM has died" in stream.error
        assert "vLLM has died" in stream.chunks[-1]
        assert await worker.exit_status(within=10) == 1
        assert late.status == "IN_QUEUE"  # another worker's
        assert "vLLM has died: " in worker.log.splitlines()[-1]
        assert [ping for ping in platform.workers.pings if ping.get("status") == "unhealthy"]
        await eventually(lambda: all(map(is_gone, family)))


async def test_a_crowd_of_streams_fails_whole_when_vllm_dies(tmp_path):
    async with platform_and_worker(tmp_path) as (platform, worker):
        jobs = [*await asyncio.gather(*(start_stream(platform, tokens=["x"] * 2000) for _ in range(29)))]
        jobs.append(await platform.book.submit(chat(crash_after=3, interval=0.05), call="run"))  # by itself
        assert all(await asyncio.gather(*(job.finish(20) for job in jobs)))
        assert {code_of(job) for job in jobs} == {503}
        assert await worker.exit_status(within=10) == 1


async def test_kill_9_takes_vllm_and_the_ping_process_along(tmp_path):
    async with platform_and_worker(tmp_path) as (_, worker):
        family = worker.family()
        worker.process.kill()
        await eventually(lambda: all(map(is_gone, family)), within=5)


async def test_sigterm_while_vllm_loads_leaves_nothing(tmp_path):
    async with Emulator() as platform, running_worker(platform, tmp_path, ready=False, FAKE_VLLM_LOAD="60") as worker:
        await eventually(lambda: any("serve" in arguments(p) for p in worker.family()))
        await asyncio.sleep(2.5)  # past the imports
        family = worker.family()
        worker.terminate()
        assert await worker.exit_status(within=10) == 0
        await eventually(lambda: all(map(is_gone, family)))


async def test_a_vllm_that_does_not_start_is_one_sentence_and_a_failure(tmp_path):
    failing = {"FAKE_VLLM_FAIL": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB."}
    async with Emulator() as platform, running_worker(platform, tmp_path, ready=False, **failing) as worker:
        assert await worker.exit_status() == 1
        assert worker.log.splitlines()[-1].startswith("error: ")
        assert "Traceback" not in worker.log
        await eventually(lambda: [ping for ping in platform.workers.pings if ping.get("status") == "unhealthy"])
        assert platform.workers.pings[-1]["reason"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WORKER_DRAIN_TIMEOUT", "long"),
        ("WORKER_MAX_CONCURRENCY", "0"),
        ("WORKER_MODE", "batch"),
        ("SERVE_DTYPE", "int3"),
    ],
)
async def test_a_bad_setting_is_one_sentence_and_status_2(tmp_path, name, value):
    async with Emulator() as platform, running_worker(platform, tmp_path, ready=False, **{name: value}) as worker:
        assert await worker.exit_status() == 2
        (line,) = worker.log.splitlines()
        assert f"{name}='{value}' is not allowed: it must be" in line


async def test_without_a_platform_it_says_how_to_try_it(tmp_path):
    async with Emulator() as platform:
        platform.worker_env = lambda worker="": {}
        async with running_worker(platform, tmp_path, ready=False) as worker:
            assert await worker.exit_status() == 2
            (line,) = worker.log.splitlines()
            assert "make runpod-local" in line


async def test_pings_go_on_and_name_the_jobs_in_flight(tmp_path):
    async with platform_and_worker(tmp_path, RUNPOD_PING_INTERVAL="1000") as (platform, _):
        job = await platform.book.submit(chat(tokens=["x"] * 60, interval=0.1), call="run")
        await eventually(lambda: any(job.id == ping.get("job_id") for ping in platform.workers.pings))


async def test_so_many_jobs_are_taken_and_no_more(tmp_path):
    async with platform_and_worker(tmp_path, MAX_CONCURRENCY="3") as (platform, worker):  # the official worker's name
        jobs = [await platform.book.submit(chat(delay=2), call="run") for _ in range(9)]
        await eventually(lambda: sum(job.status == "IN_PROGRESS" for job in jobs) == 3)
        await asyncio.sleep(0.5)
        assert sum(job.status == "IN_PROGRESS" for job in jobs) == 3
        assert "WORKER_MAX_CONCURRENCY is set to the same" in worker.log


async def test_the_main_process_stays_small(tmp_path):
    async with platform_and_worker(tmp_path, Rules(hold=1)) as (platform, worker):
        await asyncio.gather(*(run_job(platform, chat(stream=bool(i % 2))) for i in range(60)))
        assert psutil.Process(worker.process.pid).memory_info().rss < 130e6
        assert worker.process.poll() is None
        worker.process.send_signal(signal.SIGINT)
        assert await worker.exit_status(within=10) == 0


async def test_a_vllm_that_computes_nothing_while_requests_wait_ends_the_worker(tmp_path):
    async with platform_and_worker(tmp_path, WORKER_STALL_TIMEOUT="3") as (platform, worker):
        job = await platform.book.submit(chat(stream=False, delay=120), call="run")
        assert await job.finish(20)
        assert code_of(job) == 503
        assert "computed no token" in job.error
        assert await worker.exit_status(within=15) == 1
        assert "computed no token" in worker.log.splitlines()[-1]
        assert "computed no token" in platform.workers.pings[-1]["reason"]


@pytest.mark.slow
async def test_a_frozen_vllm_ends_the_worker_within_75_seconds(tmp_path):
    async with platform_and_worker(tmp_path) as (platform, worker):
        job = await start_stream(platform, tokens=["x"] * 4000)
        worker.vllm().suspend()
        assert await worker.exit_status(within=75) == 1
        assert code_of(job) == 503
        assert [ping for ping in platform.workers.pings if ping.get("status") == "unhealthy"]
        assert "/health" in worker.log.splitlines()[-1]


@pytest.mark.slow
async def test_a_vllm_that_answers_500_to_everything_ends_the_worker(tmp_path):
    async with platform_and_worker(tmp_path) as (platform, worker):
        for _ in range(90):
            await platform.book.submit(chat(status=500), call="run")
            await asyncio.sleep(1)
            if worker.process.poll() is not None:
                break
        assert worker.process.poll() == 1
        assert "5xx" in worker.log.splitlines()[-1]
