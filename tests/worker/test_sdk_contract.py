"""RunPod's SDK behaves as worker/sdk.py takes for granted: each use of its inside, held against what it does itself.

A new SDK that fails one of these needs another worker/sdk.py, or needs it no more: read that file beside the failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from unittest import mock

import pytest
import pytest_asyncio
from aiohttp import ClientError, web

from tests.support.serving import clean_environment
from tests.support.worker import ROOT, eventually
from worker.sdk import Call, Platform, TooManyRequests, Unanswered
from worker.unhealthy import report_unhealthy

# What the platform may look at; aiohttp's own headers are its own affair.
HEADERS = ("Authorization", "User-Agent", "Content-Type", "charset", "X-Request-ID")
QUERY = "?gpu=NVIDIA+L40S"


@dataclass
class Recorder:
    """A platform that notes each call and answers as a test says."""

    calls: list[dict[str, object]] = field(default_factory=list)
    answer: web.Response | None = None  # None: 200 without a body
    cut: bool = False  # no answer at all
    base: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.text()
        headers = {name: request.headers.get(name) for name in HEADERS}
        self.calls.append(
            {"method": request.method, "url": request.path_qs, "body": json.loads(body) if body else None} | headers
        )
        if self.cut:
            request.transport.abort()
        if self.answer is None:
            return web.Response()
        return web.Response(status=self.answer.status, body=self.answer.body, content_type=self.answer.content_type)

    def take(self) -> list[dict[str, object]]:
        """Return the calls so far, and forget them."""
        calls, self.calls = self.calls, []
        return calls

    def environment(self) -> dict[str, str]:
        """Return the variables that the platform gives to a worker."""
        return {
            "RUNPOD_WEBHOOK_GET_JOB": f"{self.base}/job-take/$ID{QUERY}",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{self.base}/job-done/$RUNPOD_POD_ID/$ID{QUERY}",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{self.base}/job-stream/$RUNPOD_POD_ID/$ID{QUERY}",
            "RUNPOD_WEBHOOK_PING": f"{self.base}/ping/$RUNPOD_POD_ID{QUERY}",
            "RUNPOD_POD_ID": "pod-1",
            "RUNPOD_AI_API_KEY": "rpa_key",
        }


@pytest_asyncio.fixture
async def recorder():
    """A recorder that listens."""
    recorder = Recorder()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", recorder.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    recorder.base = f"http://127.0.0.1:{runner.addresses[0][1]}/v2/ep"
    yield recorder
    await runner.cleanup()


@pytest.fixture
def modules(recorder, tmp_path):
    """The SDK's modules, addressed to the recorder: they read the environment when they are imported."""
    env = recorder.environment()
    with mock.patch.dict(os.environ, env | {"HOME": str(tmp_path)}), contextlib.ExitStack() as patched:
        from runpod import http_client  # type: ignore[attr-defined]
        from runpod.serverless.modules import rp_http, rp_job, worker_state  # type: ignore[import-untyped]

        for module, name, value in (
            (rp_job, "JOB_GET_URL", env["RUNPOD_WEBHOOK_GET_JOB"].replace("$ID", "pod-1")),
            (rp_http, "JOB_DONE_URL", env["RUNPOD_WEBHOOK_POST_OUTPUT"].replace("$RUNPOD_POD_ID", "pod-1")),
            (rp_http, "JOB_STREAM_URL", env["RUNPOD_WEBHOOK_POST_STREAM"].replace("$RUNPOD_POD_ID", "pod-1")),
            (worker_state, "WORKER_ID", "pod-1"),
        ):
            assert isinstance(getattr(module, name), str)
            patched.enter_context(mock.patch.object(module, name, value))
        yield rp_job, worker_state, http_client


async def run_the_sdks_way(modules, handler, job):
    """Let the SDK itself run one job."""
    rp_job, _, http_client = modules
    async with http_client.AsyncClientSession() as session:
        await rp_job.handle_job(session, {"handler": handler, "return_aggregate_stream": True}, job)


async def test_what_is_posted_is_what_the_sdk_posts(recorder, modules):
    parts = ['data: {"é": "\\u00e9"}\n\n', {"object": "chat.completion"}, "data: [DONE]\n\n"]

    async def handler(_job):
        for part in parts:
            yield part

    await run_the_sdks_way(modules, handler, {"id": "job-1-u1", "input": {}})
    wanted = recorder.take()
    assert [call["url"].split("?")[0].split("/")[3] for call in wanted] == ["job-stream"] * 3 + ["job-done"]
    async with Platform() as platform:
        for part in parts:
            body = json.dumps({"output": part}, ensure_ascii=False).encode()
            assert await platform.post(Call.CHUNK, "job-1-u1", body) == 200
        whole = json.dumps({"output": parts}, ensure_ascii=False).encode()
        assert await platform.post(Call.RESULT, "job-1-u1", whole) == 200
    assert recorder.take() == wanted


async def test_an_error_is_posted_as_the_sdk_posts_it(recorder, modules):
    error = {"error": '{"error": {"message": "no", "code": 503}}'}

    async def handler(_job):
        yield error

    await run_the_sdks_way(modules, handler, {"id": "job-2", "input": {}})
    wanted = recorder.take()
    async with Platform() as platform:
        await platform.post(Call.RESULT, "job-2", json.dumps(error).encode())
    assert recorder.take() == wanted
    assert wanted[0]["body"] == error


@pytest.mark.parametrize("count", [1, 2, 30])
@pytest.mark.parametrize("busy", [False, True])
async def test_jobs_are_asked_for_as_the_sdk_asks(recorder, modules, count, busy):
    rp_job, worker_state, http_client = modules
    recorder.answer = web.Response(status=204)
    if busy:
        worker_state.JobsProgress().add("job-3")
    try:
        async with http_client.AsyncClientSession() as session:
            assert not await rp_job.get_job(session, count)
        wanted = recorder.take()
        async with Platform() as platform:
            assert await platform.take(count) == b""
        # The SDK's session has no X-Request-ID before its first post, and another job's after it; ours has none.
        assert recorder.take() == wanted
        assert ("batch_size=" in wanted[0]["url"]) == (count > 1)
        assert f"job_in_progress={int(busy)}" in wanted[0]["url"]
    finally:
        worker_state.JobsProgress().remove("job-3")


@pytest.mark.parametrize(
    ("status", "body", "kind", "found"),
    [
        (200, b'{"id": "a", "input": {}}', "application/json", b'{"id": "a", "input": {}}'),
        (200, b'[{"id": "a", "input": {}}]', "application/json", b'[{"id": "a", "input": {}}]'),
        (204, b"", "application/json", b""),
        (400, b"", "application/json", b""),
        (429, b"", "application/json", TooManyRequests),
        (404, b"", "application/json", ClientError),
        (502, b"<html></html>", "text/html", ClientError),
    ],
)
async def test_an_answer_with_jobs_means_what_it_means_to_the_sdk(recorder, modules, status, body, kind, found):
    rp_job, _, http_client = modules
    recorder.answer = web.Response(status=status, body=body, content_type=kind)
    same = {TooManyRequests: http_client.TooManyRequests}.get(found, found)
    async with http_client.AsyncClientSession() as session, Platform() as platform:
        if isinstance(found, bytes):
            taken = json.loads(found) if found else []
            assert (await rp_job.get_job(session, 2) or []) == (taken if isinstance(taken, list) else [taken])
            assert await platform.take(2) == found
            return
        with pytest.raises(same):
            await rp_job.get_job(session, 2)
        with pytest.raises(found):
            await platform.take(2)


@pytest.mark.parametrize(
    ("status", "body", "found"),
    [
        (200, {"jobsToStop": ["a", "b"]}, ["a", "b"]),
        (200, {"jobsToStop": ["a", 1, None]}, ["a"]),
        (200, {"jobsToStop": "a"}, []),
        (200, ["a"], []),
        (204, None, []),
        (429, None, TooManyRequests),
        (500, None, ClientError),
    ],
)
async def test_the_stop_channel_is_read_by_the_sdk(recorder, modules, status, body, found):
    recorder.answer = web.Response(status=status, body=json.dumps(body).encode(), content_type="application/json")
    async with Platform() as platform:
        if isinstance(found, list):
            assert await platform.stops() == found
        else:
            with pytest.raises(found):
                await platform.stops()
    (call,) = recorder.take()
    assert call["url"] == f"/v2/ep/job-stop/pod-1{QUERY}"


async def test_an_address_without_a_stop_channel_is_known(recorder, modules):
    rp_job = modules[0]
    with mock.patch.object(rp_job, "JOB_GET_URL", f"{recorder.base}/elsewhere/pod-1{QUERY}"):
        async with Platform() as platform:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(platform.stops(), 0.05)
    assert recorder.take() == []


async def test_the_ping_process_is_told_the_jobs_in_progress(modules):
    state = modules[1]
    mirror = state.PingJobMirror()
    state.JobsProgress().set_mirror(mirror)
    try:
        async with Platform() as platform:
            assert mirror.get() is None
            platform.begin("job-4")
            platform.begin("job-4")  # the same job twice is one
            platform.begin("job-5")
            assert set(mirror.get().split(",")) == {"job-4", "job-5"}
            platform.end("job-4")
            assert mirror.get() == "job-5"
            platform.end("job-5")
            platform.end("job-5")
            assert mirror.get() is None
    finally:
        state.JobsProgress().set_mirror(None)


async def test_an_unhealthy_end_is_reported_as_the_sdk_reports_it(recorder, modules):
    from runpod.serverless.modules import rp_fitness

    reason = "vLLM has died: " + "é&=" * 200
    await asyncio.to_thread(rp_fitness._report_unhealthy, "vllm", reason)
    await asyncio.to_thread(report_unhealthy, reason, "vllm")
    theirs, ours = recorder.take()
    assert ours["url"] == theirs["url"].partition("&runpod_version")[0]
    assert ours["Authorization"] == theirs["Authorization"]
    assert modules[1].WORKER_ID == "pod-1"


@pytest.mark.parametrize("accident", ["429", "reset"])
async def test_the_sdks_own_loop_still_drops_what_the_platform_does_not_take(recorder, modules, accident):
    """The reason for a loop of our own. Should this fail, the SDK may have learnt to lose nothing."""

    async def handler(_job):
        yield "data: one\n\n"
        recorder.answer, recorder.cut = None, False  # it is over
        yield "data: two\n\n"

    recorder.answer, recorder.cut = web.Response(status=429), accident == "reset"
    await run_the_sdks_way(modules, handler, {"id": "job-6", "input": {}})
    assert [call["body"] for call in recorder.take()] == [
        {"output": "data: one\n\n"},  # asked to be sent again, and not sent again
        {"output": "data: two\n\n"},
        {"output": ["data: one\n\n", "data: two\n\n"]},  # and the job is COMPLETED
    ]
    recorder.answer, recorder.cut = web.Response(status=429), accident == "reset"
    async with Platform() as platform:
        if accident == "429":
            assert await platform.post(Call.CHUNK, "job-6", b'{"output":1}') == 429
        else:
            with pytest.raises(Unanswered):
                await platform.post(Call.CHUNK, "job-6", b'{"output":1}')


WORKER = """
import asyncio, json, sys
sys.path.insert(0, {runpod!r})
from worker import sdk

runpod = sdk.load()
from runpod.serverless.modules import rp_fitness, rp_http, rp_job, rp_logger, rp_scale, worker_state

taken, handled = [], []

async def handle(job):
    handled.append(job)
    yield job

async def loop():
    async with sdk.Platform() as platform:
        platform.begin("job-7")
        while not taken:  # until the ping process has told it
            await asyncio.sleep(0.05)
            taken.extend(await platform.take(1))
    return 7

status = sdk.start({{"handler": handle, "concurrency_modifier": lambda _: 1, "return_aggregate_stream": True}}, loop)
print(json.dumps({{
    "status": status,
    "handled": handled,
    "checks": [check.__name__ for check in rp_fitness._fitness_checks],
    "torch": "torch" in sys.modules,
    "log": rp_logger.RunPodLogger().level,
    "urls": [rp_job.JOB_GET_URL, rp_http.JOB_DONE_URL, rp_http.JOB_STREAM_URL],
    "worker": worker_state.WORKER_ID,
    "policy": type(asyncio.get_event_loop_policy()).__module__,
}}), file=sys.stderr)
"""


async def test_start_runs_our_loop_in_the_place_of_the_sdks_and_leaves_the_rest_to_it(recorder, tmp_path):
    environment = clean_environment(HOME=str(tmp_path), RUNPOD_PING_INTERVAL="1000", **recorder.environment())
    recorder.answer = web.Response(status=204)
    script = textwrap.dedent(WORKER).format(runpod=str(ROOT / "runpod"))
    with subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            await eventually(lambda: any("job_id=job-7" in call["url"] for call in recorder.calls), within=30)
            recorder.answer = web.Response(body=b'{"id": "x", "input": {}}', content_type="application/json")
            out, err = await asyncio.to_thread(process.communicate, timeout=20)
        finally:
            process.kill()
    found = json.loads(err.splitlines()[-1])
    base = recorder.base
    assert found == {
        "status": 7,  # what the loop returned, and not what the SDK did
        "handled": [],  # the SDK's own loop has run nothing
        "checks": [],  # RUNPOD_SKIP_AUTO_SYSTEM_CHECKS and RUNPOD_SKIP_GPU_CHECK are heard
        "torch": False,
        "log": "INFO",
        "urls": [
            f"{base}/job-take/pod-1{QUERY}", f"{base}/job-done/pod-1/$ID{QUERY}", f"{base}/job-stream/pod-1/$ID{QUERY}",
        ],
        "worker": "pod-1",
        "policy": "uvloop",
    }  # fmt: skip
    assert "DEBUG" not in out
    ping = next(call for call in recorder.calls if "/ping/" in call["url"])
    assert (ping["method"], ping["Authorization"]) == ("GET", "rpa_key")
    assert ping["url"].startswith("/v2/ep/ping/pod-1?gpu=")


def test_the_sdks_checks_are_there_to_be_skipped():
    from runpod.serverless.modules import rp_fitness

    rp_fitness.clear_fitness_checks()
    rp_fitness._reset_registration_state()
    try:
        with mock.patch.dict(os.environ):
            os.environ.pop("RUNPOD_SKIP_AUTO_SYSTEM_CHECKS", None)
            rp_fitness._ensure_system_checks_registered()
            assert rp_fitness._fitness_checks
    finally:
        rp_fitness.clear_fitness_checks()
        rp_fitness._reset_registration_state()
