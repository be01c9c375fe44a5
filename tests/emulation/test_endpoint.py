"""The emulated platform, seen by its callers and by a plain SDK worker."""

import asyncio
import io
import json

import aiohttp
import pytest
from aiohttp import web

from emulation.endpoint import Emulator
from emulation.rules import Rules
from tests.support.in_process import looping
from tests.support.worker import chat, eventually, platform_and_worker, running_worker


class Caller:
    """Call an emulated endpoint."""

    def __init__(self, platform, key=None):
        self.base = platform.base_url
        self.session = aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"} if key else {})

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.session.close()

    async def call(self, method, path, **arguments):
        async with self.session.request(method, self.base + path, **arguments) as response:
            text = await response.text()
            return response.status, json.loads(text) if response.content_type == "application/json" else text


async def test_a_job_goes_through_its_states():
    async with looping() as worker, Caller(worker.platform) as caller:
        status, job = await caller.call("POST", "/run", json={"input": chat(tokens=["a", "b"], interval=0.5)})
        assert (status, job["status"]) == (200, "IN_QUEUE")
        seen, chunks = set(), []
        while "COMPLETED" not in seen:
            _, answer = await caller.call("GET", f"/stream/{job['id']}")
            seen.add(answer["status"])
            chunks += [chunk["output"] for chunk in answer["stream"]]
            await asyncio.sleep(0.05)
        _, rest = await caller.call("GET", f"/stream/{job['id']}")
        chunks += [chunk["output"] for chunk in rest["stream"]]
        assert seen >= {"IN_PROGRESS", "COMPLETED"}
        assert "".join(chunks).endswith("data: [DONE]\n\n")
        _, final = await caller.call("GET", f"/status/{job['id']}")
        assert final["status"] == "COMPLETED"
        assert final["executionTime"] >= 900
        assert final["workerId"] == "in-process"


async def test_runsync_gives_up_waiting_and_not_the_job():
    async with looping() as worker, Caller(worker.platform) as caller:
        status, job = await caller.call("POST", "/runsync?wait=1000", json={"input": chat(stream=False, delay=2)})
        assert (status, job["status"]) == (200, "IN_PROGRESS")
        assert job["id"].startswith("sync-")
        assert await worker.platform.book.find(job["id"]).finish(20)


async def test_queued_jobs_can_be_cancelled_and_purged():
    async with Emulator() as platform, Caller(platform) as caller:
        jobs = [(await caller.call("POST", "/run", json={"input": {}}))[1]["id"] for _ in range(3)]
        assert (await caller.call("POST", f"/cancel/{jobs[0]}"))[1]["status"] == "CANCELLED"
        assert (await caller.call("GET", "/health"))[1]["jobs"]["inQueue"] == 2
        assert await caller.call("POST", "/purge-queue") == (200, {"removed": 2, "status": "completed"})
        assert (await caller.call("GET", f"/status/{jobs[1]}"))[1]["status"] == "CANCELLED"


async def test_a_failed_job_can_be_retried():
    async with looping() as worker, Caller(worker.platform) as caller:
        _, job = await caller.call("POST", "/runsync", json={"input": {}})
        assert job["status"] == "FAILED"
        assert await caller.call("POST", f"/retry/{job['id']}") == (200, {"id": job["id"], "status": "IN_QUEUE"})
        again = worker.platform.book.find(job["id"])
        assert await again.finish(20)
        assert again.retries == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/run", b"no json", 400),
        ("POST", "/run", b'{"no": "input"}', 400),
        ("POST", "/run", b"[]", 400),
        ("POST", "/run", b'{"input": "' + b"x" * 11_000_000 + b'"}', 400),
        ("GET", "/status/unknown", None, 404),
        ("POST", "/cancel/unknown", None, 404),
        ("GET", "/elsewhere", None, 404),
    ],
)
async def test_a_call_that_makes_no_sense_is_refused(method, path, body, status):
    async with Emulator() as platform, Caller(platform) as caller:
        assert (await caller.call(method, path, data=body and io.BytesIO(body)))[0] == status


async def test_a_key_is_asked_for_in_either_form():
    async with Emulator(key="rp-key") as platform:
        for key, status in ((None, 401), ("wrong", 401), ("rp-key", 200)):
            async with Caller(platform, key) as caller:
                assert (await caller.call("GET", "/health"))[0] == status


async def test_a_webhook_is_told_the_whole_job_and_told_again():
    told = []

    async def hear(request):
        told.append(await request.json())
        return web.Response(status=500 if len(told) == 1 else 200)

    app = web.Application()
    app.router.add_post("/hook", hear)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    hook = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    try:
        async with looping(Rules(hold=0.1, webhook_pause=0.01)) as loop, Caller(loop.platform) as caller:
            _, job = await caller.call("POST", "/run", json={"input": chat(tokens=["a", "b"]), "webhook": hook})
            await eventually(lambda: len(told) == 2)
        assert told[0] == told[1]
        assert told[1]["id"] == job["id"]
        assert told[1]["status"] == "COMPLETED"
        assert "".join(told[1]["output"]).endswith("data: [DONE]\n\n")
    finally:
        await runner.cleanup()


async def test_the_platforms_rates_hold():
    async with Emulator() as platform, Caller(platform) as caller:
        statuses = [(await caller.call("POST", "/purge-queue"))[0] for _ in range(3)]
        assert statuses == [200, 200, 429]


async def test_429_can_be_asked_for():
    async with Emulator(Rules(too_many={"caller": 2})) as platform, Caller(platform) as caller:
        assert [(await caller.call("GET", "/health"))[0] for _ in range(4)] == [200, 429, 200, 429]


async def test_a_job_that_runs_too_long_is_stopped_at_the_worker():
    async with looping() as worker, Caller(worker.platform) as caller:
        policy = {"executionTimeout": 500}
        _, job = await caller.call("POST", "/run", json={"input": chat(delay=30), "policy": policy})
        await eventually(lambda: worker.platform.book.find(job["id"]).status == "TIMED_OUT")
        await eventually(lambda: worker.vllm.aborted == 1)


async def test_the_jobs_of_a_vanished_worker_go_to_another(tmp_path):
    rules = Rules(vanish_after_chunks=3, lost_after=3)
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    async with platform_and_worker(tmp_path / "one", rules) as (platform, first):
        job = await platform.book.submit(chat(tokens=["x"] * 20, interval=0.05), call="run")
        await eventually(lambda: job.status == "IN_QUEUE" and platform.book.counts["retried"] == 1, within=15)
        first.close()
        platform.workers.taking.clear()
        first_env = platform.worker_env
        platform.worker_env = lambda worker="worker-2": first_env(worker)
        async with running_worker(platform, tmp_path / "two"):
            assert await job.finish(20)
        assert (job.status, job.worker) == ("COMPLETED", "worker-2")
        assert "".join(job.chunks).count('"content": "x"') == 20


async def test_a_cold_start_keeps_jobs_waiting():
    async with looping(Rules(cold_start=1.5)) as worker:
        job = await worker.submit(chat())
        assert not await job.finish(0.5)
        assert await job.finish(20)
        assert job.view()["delayTime"] > 500
