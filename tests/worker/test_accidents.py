"""A platform that stumbles at any call: what must hold, whatever it does.

No job is COMPLETED with a text that is not whole, none is left IN_PROGRESS, none FAILED that could have gone on, and
nothing of one job gets into another.
"""

import asyncio
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emulation.accidents import TAKE_KINDS, Accident, dice, scripted
from emulation.rules import Rules
from tests.support.in_process import looping
from tests.support.worker import chat
from worker.job_error import JobError

AGAIN = [Accident("status", status) for status in (408, 429, 500, 502, 503, 504)]
RESET, RESET_AFTER = Accident("reset"), Accident("reset", after=True)
HANG, HANG_AFTER, CUT = Accident("hang"), Accident("hang", after=True), Accident("cut")
REFUSED = [Accident("status", status) for status in (400, 401, 403, 409, 413, 422)]
TAKES = [Accident(kind) for kind in TAKE_KINDS]
# What may happen to any call without any harm to a job.
HARMLESS = {
    "take": [
        *AGAIN, *REFUSED, *TAKES, RESET, RESET_AFTER, HANG, HANG_AFTER, CUT, Accident("status", 502, after=True),
        Accident("status", 404),
    ],
    "stop": [*AGAIN, *REFUSED, RESET, HANG, CUT, Accident("status", 404)],
    "stream": [*AGAIN, CUT],
    "done": [
        *AGAIN, RESET, RESET_AFTER, HANG, HANG_AFTER, CUT, *(Accident("status", a.status, after=True) for a in AGAIN)
    ],
    "ping": [*AGAIN, RESET, HANG],
}  # fmt: skip
# What cannot be mended on a stream's post: what has been said is lost or may be said twice.
FATAL = [RESET, RESET_AFTER, HANG, HANG_AFTER]
quick = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def words(number):
    """Return a text that no other job has."""
    return [f"{number}:{word} " for word in range(4)]


async def ask(loop, count):
    """Submit jobs, every third one whole, the others streams."""
    return [
        await loop.submit(chat(tokens=words(i), stream=bool(i % 3), interval=0.001 * (i % 4))) for i in range(count)
    ]


def texts(parts):
    """Return what a stream's parts say, and whether they hold an error."""
    events = [event.removeprefix("data: ") for event in "".join(parts).split("\n\n") if event.startswith("data: ")]
    bodies = [json.loads(event) for event in events if event != "[DONE]"]
    said = "".join(body["choices"][0]["delta"].get("content", "") for body in bodies if "choices" in body)
    return said, any("error" in body for body in bodies), "[DONE]" in events


def check_completed(job, number):
    """Check that a job is COMPLETED with all of its text and no other, for the reader of its result and of its stream."""
    wanted = "".join(words(number))
    if number % 3 == 0:
        assert [answer["choices"][0]["message"]["content"] for answer in job.output] == [wanted]
        return
    assert texts(job.output) == (wanted, False, True)
    assert texts(job.chunks) == (wanted, False, True)


def check_failed(job, number):
    """Check that a job failed with an error that says to send it again, and that its reader can see that it is cut."""
    assert job.status == "FAILED", job.view()
    assert json.loads(job.error or "")["error"]["code"] in (502, 503)
    said, error, done = texts([chunk for chunk in job.chunks if isinstance(chunk, str)])
    assert error or not done or said == "".join(words(number))


@quick
@given(seed=st.integers(0, 2**32), share=st.sampled_from([0.1, 0.3, 0.6]))
async def test_what_can_be_repeated_loses_nothing(seed, share):
    rules = Rules(hold=0.1, accidents=dice(seed, {call: (share, kinds) for call, kinds in HARMLESS.items()}))
    async with looping(rules, concurrency=5) as loop:
        jobs = await ask(loop, 12)
        assert all(await asyncio.gather(*(job.finish(20) for job in jobs))), [job.view() for job in jobs]
        for number, job in enumerate(jobs):
            assert job.status == "COMPLETED", job.view()
            check_completed(job, number)


@quick
@given(seed=st.integers(0, 2**32))
async def test_what_cannot_be_repeated_fails_that_job_alone_and_tells_its_reader(seed):
    shares = {call: (0.2, kinds) for call, kinds in HARMLESS.items()} | {"stream": (0.1, FATAL + AGAIN)}
    async with looping(Rules(hold=0.1, accidents=dice(seed, shares)), concurrency=5, chunk_s=0.3) as loop:
        jobs = await ask(loop, 12)
        assert all(await asyncio.gather(*(job.finish(20) for job in jobs))), [job.view() for job in jobs]
        for number, job in enumerate(jobs):
            if job.status == "COMPLETED":
                check_completed(job, number)
            else:
                check_failed(job, number)
            assert number % 3 or job.status == "COMPLETED"  # the result holds all of a whole answer


@quick
@given(seed=st.integers(0, 2**32), after=st.sampled_from([0.0, 0.02, 0.05, 0.1]))
async def test_an_end_finishes_what_was_taken_and_takes_nothing_that_it_cannot_finish(seed, after):
    shares = {call: (0.2, kinds) for call, kinds in HARMLESS.items() if call != "take"}
    async with looping(Rules(hold=0.1, accidents=dice(seed, shares)), concurrency=4) as loop:
        jobs = await ask(loop, 15)
        await asyncio.sleep(after)
        await loop.jobs.finish(10.0, JobError(503, "out of time"))
        for number, job in enumerate(jobs):
            assert job.status in ("COMPLETED", "IN_QUEUE"), job.view()
            if job.status == "COMPLETED":
                check_completed(job, number)


@quick
@given(seed=st.integers(0, 2**32), after=st.sampled_from([0.0, 0.02, 0.05]))
async def test_vllms_death_fails_at_most_what_is_in_flight_and_leaves_nothing_in_progress(seed, after):
    shares = {call: (0.2, kinds) for call, kinds in HARMLESS.items() if call != "take"}
    async with looping(Rules(hold=0.1, accidents=dice(seed, shares)), concurrency=4) as loop:
        jobs = await ask(loop, 15)
        await asyncio.sleep(after)
        verdict = JobError(503, "vLLM has died")
        loop.jobs.condemn(verdict)
        await loop.jobs.finish(0, verdict)
        failed = 0
        for number, job in enumerate(jobs):
            assert job.status != "IN_PROGRESS"
            if job.status == "COMPLETED":
                check_completed(job, number)
            elif job.status == "FAILED":
                failed += 1
                check_failed(job, number)
        assert failed <= 4


@pytest.mark.parametrize("kind", TAKES, ids=str)
async def test_an_odd_batch_hurts_no_other_job(kind):
    async with looping(Rules(hold=0.1, accidents=scripted({"take": [kind] * 3}))) as loop:
        running = await loop.submit(chat(tokens=words(1), interval=0.05))
        jobs = await ask(loop, 3)
        for job in (running, *jobs):
            assert await job.finish(10)
            assert job.status == "COMPLETED", job.view()


async def test_a_chunk_that_is_refused_for_too_long_fails_its_job():
    always = dice(0, {"stream": (1.0, [Accident("status", 429)])})
    async with looping(Rules(hold=0.1, accidents=always)) as loop:
        job = await loop.submit(chat())
        assert await job.finish(10)
        assert json.loads(job.error or "")["error"]["code"] == 503
        assert "HTTP 429" in job.error


@pytest.mark.parametrize("call", ["stream", "done"])
@pytest.mark.parametrize("refused", REFUSED, ids=str)
async def test_one_refusal_costs_nothing(call, refused):
    async with looping(Rules(hold=0.1, accidents=scripted({call: [refused]}))) as loop:
        for job in await ask(loop, 3):
            assert await job.finish(10)
            assert job.status == "COMPLETED", job.view()


async def test_a_result_that_is_refused_gives_way_to_an_error():
    async with looping(Rules(hold=0.1, accidents=scripted({"done": [Accident("status", 413)] * 3}))) as loop:
        job = await loop.submit(chat(stream=False))
        assert await job.finish(10)
        assert json.loads(job.error or "")["error"]["code"] == 502


async def test_a_result_for_a_job_that_is_gone_is_not_repeated():
    async with looping(Rules(hold=0.1, accidents=scripted({"done": [Accident("status", 404)] * 9}))) as loop:
        await loop.submit(chat(stream=False))
        while not loop.platform.workers.posts.get("done"):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert loop.platform.workers.posts["done"] == 1
        assert len(loop.jobs) == 0


async def test_a_job_that_is_delivered_again_while_it_runs_runs_once():
    async with looping(Rules(hold=0.1, accidents=scripted({"take": [Accident("twice")] * 4}))) as loop:
        job = await loop.submit(chat(tokens=words(1), interval=0.05))
        assert await job.finish(10)
        check_completed(job, 1)
        assert len(loop.vllm.requests) == 1


async def test_a_job_that_is_asked_for_again_at_its_very_end_runs_again():
    late = Rules(hold=5, accidents=scripted({"done": [Accident("status", 500, after=True)] * 3}))
    async with looping(late, concurrency=2) as loop:
        job = await loop.submit({})
        await job.finish(10)
        await loop.platform.book.retry(job)  # while the worker still repeats the first result
        assert await job.finish(10)
        assert job.retries == 1


async def test_a_platform_that_knows_no_streams_and_no_stops_gets_whole_answers():
    """RunPod's Hub tests an image with a platform that has job-take and job-done alone."""
    unknown = dice(0, {call: (1.0, [Accident("status", 404)]) for call in ("stream", "stop", "ping")})
    async with looping(Rules(hold=0.1, accidents=unknown), concurrency=1) as loop:
        job = await loop.submit(chat(tokens=words(0), stream=False))
        assert await job.finish(20)
        check_completed(job, 0)


async def test_a_job_that_is_stopped_and_asked_for_again_at_once_runs_again():
    async with looping(Rules(hold=5, latency={"stream": 0.05}), concurrency=2) as loop:
        job = await loop.submit(chat(tokens=words(1) * 50, interval=0.02))
        while not job.chunks:
            await job.change()
        await loop.platform.book.stop(job, "TIMED_OUT")
        await loop.platform.book.retry(job)
        assert await job.finish(20)
        assert job.status == "COMPLETED"
        assert texts(job.chunks)[0] == "".join(words(1) * 50)
        assert len(loop.vllm.requests) == 2


async def test_a_post_that_hangs_does_not_keep_the_end_from_being_told():
    hanging = Rules(hold=0.1, accidents=scripted({"stream": [None, *[HANG] * 3]}))
    async with looping(hanging) as loop:
        jobs = await ask(loop, 6)
        while not all(job.status == "IN_PROGRESS" or job.final for job in jobs):
            await asyncio.sleep(0.01)
        verdict = JobError(503, "vLLM has died")
        loop.jobs.condemn(verdict)
        await loop.jobs.finish(0, verdict)
        for number, job in enumerate(jobs):
            if job.status == "COMPLETED":
                check_completed(job, number)
            else:
                check_failed(job, number)


EACH = sorted({(call, str(accident)) for call, kinds in HARMLESS.items() for accident in kinds})


@pytest.mark.slow
@pytest.mark.parametrize(("call", "accident"), EACH)
async def test_200_jobs_under_each_accident(call, accident):
    shares = {call: (0.3, [Accident.read(accident)])}
    async with looping(Rules(hold=0.2, accidents=dice(0, shares))) as loop:
        jobs = await ask(loop, 200)
        assert all(await asyncio.gather(*(job.finish(60) for job in jobs))), [job.view() for job in jobs]
        for number, job in enumerate(jobs):
            assert job.status == "COMPLETED", job.view()
            check_completed(job, number)


@pytest.mark.slow
@pytest.mark.parametrize("accident", FATAL, ids=str)
async def test_200_jobs_whose_posts_cannot_be_mended(accident):
    shares = {"stream": (0.1, [accident])}
    async with looping(Rules(hold=0.2, accidents=dice(0, shares)), chunk_s=1.0) as loop:
        jobs = await ask(loop, 200)
        assert all(await asyncio.gather(*(job.finish(60) for job in jobs))), [job.view() for job in jobs]
        for number, job in enumerate(jobs):
            check_completed(job, number) if job.status == "COMPLETED" else check_failed(job, number)
