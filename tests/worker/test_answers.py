"""What the worker makes of jobs, seen from the platform: answers, streams and errors."""

import asyncio
import json

import pytest

from tests.support.worker import MODEL, chat, run_job

pytestmark = pytest.mark.asyncio(loop_scope="module")

ODD = "h\u00e9 \u20ac \U0001f600 \u4f60\u597d " * 3


def error_of(job):
    """Return the error object of a failed job."""
    assert job.status == "FAILED", job.view()
    return json.loads(job.error)["error"]


def events_of(job):
    """Return the events of a stream, after checking that every chunk is a whole number of them."""
    for chunk in job.chunks:
        assert isinstance(chunk, str)
        assert chunk.endswith("\n\n")
        assert all(event.startswith("data: ") for event in chunk.split("\n\n")[:-1])
    return [event.removeprefix("data: ") for event in "".join(job.chunks).split("\n\n")[:-1]]


def text_of(job):
    """Return the text of a whole chat stream."""
    *events, last = events_of(job)
    assert last == "[DONE]"
    return "".join(json.loads(event)["choices"][0]["delta"].get("content", "") for event in events)


async def test_a_whole_answer_is_one_chunk_and_the_jobs_output(served):
    platform, _ = served
    job = await run_job(platform, chat(stream=False))
    assert job.status == "COMPLETED"
    assert job.chunks == job.output
    (answer,) = job.output
    assert answer["choices"][0]["message"]["content"] == "The capital of France is Paris."
    assert answer["model"] == MODEL


async def test_a_stream_is_whole_events_and_all_of_them_are_the_result(served):
    platform, _ = served
    job = await run_job(platform, chat())
    assert text_of(job) == "The capital of France is Paris."
    assert (job.status, job.output) == ("COMPLETED", job.chunks)


async def test_streams_and_whole_answers_side_by_side_stay_what_they_are(served):
    platform, _ = served
    jobs = await asyncio.gather(
        *(run_job(platform, chat(stream=bool(i % 2), interval=0.01, tokens=["x"] * (i + 1))) for i in range(20))
    )
    assert all(job.chunks == job.output for job in jobs)
    assert all(isinstance(job.output[0], str) == bool(i % 2) for i, job in enumerate(jobs))
    assert [text_of(job) for job in jobs[1::2]] == ["x" * (i + 1) for i in range(1, 20, 2)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
async def test_text_cut_inside_characters_arrives_intact(served, size):
    platform, _ = served
    job = await run_job(platform, chat(tokens=[ODD], piece_bytes=size))
    assert text_of(job) == ODD


async def test_posts_that_back_up_are_merged(served):
    platform, _ = served
    platform.rules.latency["stream"] = 0.05
    try:
        job = await platform.book.submit(chat(tokens=["x"] * 60, interval=0.01), call="run")
        assert await job.finish(10)
    finally:
        del platform.rules.latency["stream"]
    assert text_of(job) == "x" * 60
    assert len(job.chunks) < 30


async def test_a_big_burst_is_cut_between_events_into_chunks_that_the_platform_takes(served):
    platform, _ = served
    job = await run_job(platform, chat(tokens=['"' * 90_000] * 20))
    assert text_of(job) == '"' * 90_000 * 20


async def test_an_event_that_is_too_big_by_itself_arrives_in_parts(served):
    platform, _ = served
    job = await run_job(platform, chat(tokens=["\u20ac" * 600_000]))
    assert job.status == "COMPLETED"
    assert "".join(job.chunks).count("\u20ac") == 600_000
    assert "\ufffd" not in "".join(job.chunks)


async def test_an_answer_over_the_chunk_limit_is_still_the_jobs_output(served):
    platform, _ = served
    body = {"data": "x" * 3_000_000}
    job = await run_job(platform, {"route": "/v1/embeddings", "body": {"input": "x", "fake": {"body": body}}})
    assert (job.output, job.chunks) == ([body], [])


@pytest.mark.parametrize(("call", "most"), [("run", 10_000_000), ("runsync", 20_000_000)])
async def test_an_answer_may_have_the_size_that_the_platform_takes_and_no_more(served, call, most):
    platform, _ = served
    for size, status in ((most - 2_000, "COMPLETED"), (most + 1, "FAILED")):
        job = await platform.book.submit({"messages": [], "fake": {"tokens": ["x" * size]}}, call=call)
        assert await job.finish(30)
        assert job.status == status
    assert error_of(job)["code"] == 413


async def test_a_stream_that_is_too_long_for_a_result_is_whole_for_its_reader_and_an_error_for_all_others(served):
    platform, _ = served
    job = await run_job(platform, chat(tokens=["x" * 400_000] * 26))
    assert text_of(job) == "x" * 400_000 * 26
    (event,) = job.output
    assert json.loads(event.removeprefix("data: "))["error"]["code"] == 413


@pytest.mark.parametrize("status", [400, 404, 422, 429, 500, 503])
@pytest.mark.parametrize("stream", [False, True])
async def test_vllms_status_and_message_survive(served, status, stream):
    platform, _ = served
    script = {"status": status, "message": 'no: "quoted" \u20ac', "error_type": "SomeError"}
    job = await run_job(platform, chat(stream=stream, **script))
    wanted = {"message": 'no: "quoted" \u20ac', "type": "SomeError", "param": None, "code": status}
    assert error_of(job) == wanted
    if stream:
        assert json.loads(events_of(job)[-1]) == {"error": wanted}
    else:
        assert job.chunks == []


async def test_a_model_that_is_not_served_is_a_404(served):
    platform, _ = served
    job = await run_job(platform, {"route": "/v1/completions", "body": {"model": "other", "prompt": "x"}})
    assert error_of(job)["code"] == 404


@pytest.mark.parametrize("accident", ["cut_after", "stop_after"])
async def test_a_stream_that_is_not_whole_is_an_error(served, accident):
    platform, _ = served
    job = await run_job(platform, chat(**{accident: 3}, interval=0.05))
    assert error_of(job)["code"] == 502
    assert json.loads(events_of(job)[-1])["error"]["code"] == 502
    assert "[DONE]" not in "".join(job.chunks)


async def test_an_error_that_vllm_sends_inside_a_stream_fails_the_job(served):
    platform, _ = served
    job = await run_job(platform, chat(error_after=2, message="the engine tripped"))
    assert error_of(job)["message"] == "the engine tripped"
    assert "".join(job.chunks).count('"error"') == 1


async def test_a_success_that_carries_an_error_is_one(served):
    platform, _ = served
    script = {"body": {"error": {"message": "inside", "code": "server_error"}, "id": "x"}}
    job = await run_job(platform, {"route": "/v1/responses", "body": {"input": "x", "fake": script}})
    assert error_of(job)["message"] == "inside"


@pytest.mark.parametrize(
    "odd",
    [{}, "text", 7, [], None, True, {"route": "/other"}, {"openai_route": "@other.host/v1/models"}]
    + [{"openai_route": route} for route in ("/../..", "http://127.0.0.1:1/v1/models", "//127.0.0.1:1/", "/%2e%2e/x")]
    + [{"route": "/v1/completions", "body": {"prompt": "x" * 30_000_000}}, {"route": "/v1/models", "method": "DELETE"}],
    ids=lambda odd: str(odd)[:40],
)
async def test_an_odd_job_gets_a_clear_error_and_never_reaches_vllm(served, odd):
    platform, worker = served
    before = len((await worker.report())["requests"])
    job = await run_job(platform, odd)
    assert 400 <= error_of(job)["code"] < 500
    assert len((await worker.report())["requests"]) == before
    assert worker.process.poll() is None


async def test_the_key_is_sent_to_vllm_and_shown_nowhere(served):
    platform, worker = served
    job = await run_job(platform, {"openai_route": "/v1/models"})
    assert job.output[0]["data"][0]["id"] == MODEL
    assert not [p for p in worker.family() if "a-key-for-vllm" in " ".join(p.cmdline())]
    assert "a-key-for-vllm" not in worker.log


async def test_no_prompt_is_logged(served):
    platform, worker = served
    await run_job(platform, {"messages": [{"role": "user", "content": "my-very-own-secret"}]})
    assert "my-very-own-secret" not in worker.log


async def test_a_cancelled_stream_is_aborted_in_vllm(served):
    platform, worker = served
    job = await platform.book.submit(chat(tokens=["x"] * 1000, interval=0.02), call="run")
    while not job.chunks:
        await job.change()
    aborted = (await worker.report())["aborted"]
    await platform.book.stop(job, "CANCELLED")
    async with asyncio.timeout(1):
        while (await worker.report())["aborted"] == aborted:
            await asyncio.sleep(0.02)
    assert (await run_job(platform, chat())).status == "COMPLETED"


async def test_a_cancelled_job_that_waits_for_its_answer_is_aborted_in_vllm(served):
    platform, worker = served
    job = await platform.book.submit(chat(stream=False, delay=30), call="run")
    while not (await worker.report())["running"]:
        await asyncio.sleep(0.02)
    await platform.book.stop(job, "CANCELLED")
    async with asyncio.timeout(1):
        while (await worker.report())["running"]:
            await asyncio.sleep(0.02)


async def test_a_cancelled_stream_is_aborted_while_its_chunk_is_posted(served):
    platform, worker = served
    platform.rules.latency["stream"] = 5.0
    try:
        job = await platform.book.submit(chat(tokens=["x"] * 1000, interval=0.02), call="run")
        while not (await worker.report())["running"]:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        await platform.book.stop(job, "CANCELLED")
        async with asyncio.timeout(1):
            while (await worker.report())["running"]:
                await asyncio.sleep(0.02)
    finally:
        del platform.rules.latency["stream"]
