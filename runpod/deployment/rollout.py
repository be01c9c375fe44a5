"""After `up`: wait until a worker is ready, and ask it one real question."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from client import LLMClient
from deployment import status as endpoint_status
from deployment.answers import Job, Nothing
from deployment.errors import DeployError
from deployment.report import duration

if TYPE_CHECKING:
    from deployment.answers import Endpoint, WorkerList
    from deployment.rest_api import RunpodApi
    from deployment.terminal import Terminal

QUESTION = "What is the capital of France? Answer with one word."
FIRST_POLL_S, LONGEST_POLL_S = 0.5, 5.0
PLACING_S = 900.0  # for a GPU to come free and the image to be pulled; RunPod bills neither
MOST_FAILURES = 3
UNHEALTHY_S = 10.0  # a worker that stays unhealthy so long has failed once more


def wait_until_ready(api: RunpodApi, endpoint: Endpoint, *, init_timeout: float, terminal: Terminal) -> None:
    """Return when a worker of the current release can take work; show the way there.

    With no worker that always runs, one small request wakes the first. Raises DeployError when it takes too long, or
    when workers fail again and again.
    """
    begin, poll, last = time.monotonic(), FIRST_POLL_S, ""
    asleep, job = endpoint.workers.min == 0, None
    starts = Starts()
    with terminal.progress():
        while True:
            workers = api.workers(endpoint.id)
            if asleep and not workers.workers:
                job = _wake(api, endpoint)
                asleep = False
            stage = _stage(workers)
            elapsed = time.monotonic() - begin
            terminal.step(f"{duration(elapsed):>12}  {stage}", new=stage != last)
            if stage.startswith("ready"):
                return
            for worker, what in starts.failed(workers).items():
                error = endpoint_status.last_error(api, endpoint.id, worker)
                terminal.warn(f"worker {worker} {what}: {error or 'its log says nothing'}")
                starts.error = error or starts.error
            problem = None
            if starts.failures >= MOST_FAILURES:
                problem = (
                    f"{starts.failures} starts of a worker have failed. The last error: {starts.error or 'unknown'}"
                )
            elif elapsed > init_timeout + PLACING_S:
                problem = f"No worker was ready after {duration(elapsed)} ({stage}): see `make deploy-logs`."
            if problem is not None:
                _let_sleep(api, endpoint, job)
                raise DeployError(f"{problem}\n{_bill(endpoint)}")
            last = stage
            time.sleep(poll)
            poll = min(poll * 1.5, LONGEST_POLL_S)


@dataclass
class Starts:
    """Counts the starts that failed: a worker turns unhealthy or stays so, starts anew, or goes before it is ready."""

    failures: int = 0
    error: str = ""
    _unhealthy_since: dict[str, float] = field(default_factory=dict)
    _uptime: dict[str, int] = field(default_factory=dict)

    def failed(self, workers: WorkerList) -> dict[str, str]:
        """Return the workers that have failed since the last look, by their ids, each with what it did."""
        now = time.monotonic()
        current = [worker for worker in workers.workers if not worker.is_stale]  # old ones are meant to go
        unhealthy = {worker.id for worker in current if worker.status == "UNHEALTHY"}
        uptime = {worker.id: worker.uptime_seconds for worker in current if worker.uptime_seconds is not None}
        known = {worker.id for worker in workers.workers}
        failed: dict[str, str] = {}
        for name, before in self._uptime.items():
            if name in self._unhealthy_since:
                continue  # it has been counted, however it goes on
            if name not in known:
                failed[name] = "has gone before it was ready"
            elif uptime.get(name, before) < before:
                failed[name] = "has started anew"
        for name in unhealthy:
            if now - self._unhealthy_since.get(name, -UNHEALTHY_S) >= UNHEALTHY_S:
                failed[name] = "is unhealthy"
        self._unhealthy_since = {
            name: now if name in failed else self._unhealthy_since.get(name, now) for name in unhealthy
        }
        self._uptime = uptime
        self.failures += len(failed)
        return failed


def ask(base_url: str, api_key: str, model: str) -> str:
    """Return the endpoint's answer to one question, through the bundled client. Raises DeployError."""

    async def answer() -> str:
        async with LLMClient(base_url, api_key, model, max_tokens=32, temperature=0.0) as client:
            return await client.generate([{"role": "user", "content": QUESTION}])

    try:
        text = asyncio.run(answer()).strip()
    except Exception as error:  # whatever it is, it is one sentence to the user, and the cause is kept
        raise DeployError(f"The endpoint is up but did not answer a question: {error}") from error
    if not text:
        raise DeployError("The endpoint is up but answered a question with nothing: see `make deploy-logs`.")
    return text


def _wake(api: RunpodApi, endpoint: Endpoint) -> str | None:
    """Make RunPod start a worker; return the id of the job that does it, if there is one."""
    urls = endpoint.request_urls
    if urls.run:
        job = api.call_url(Job, "POST", urls.run, {"input": {"openai_route": "/v1/models"}}, timeout=10.0)
        return job.id if job else None
    if urls.health:
        api.call_url(Nothing, "GET", urls.health, timeout=10.0)
    return None


def _let_sleep(api: RunpodApi, endpoint: Endpoint, job: str | None) -> None:
    """Take the waking job back: while it waits, RunPod goes on starting workers for it."""
    urls = endpoint.request_urls
    if job is not None and urls.run:
        with contextlib.suppress(DeployError):  # why the wait has ended is of more use than why this failed
            api.call_url(Nothing, "POST", f"{urls.run.removesuffix('/run')}/cancel/{job}", timeout=10.0)


def _bill(endpoint: Endpoint) -> str:
    """Return what goes on being billed."""
    least, most = endpoint.workers.min, endpoint.workers.max
    if least:
        return (
            f"Still billed: {least} worker{'s' if least > 1 else ''} that RunPod keeps starting, each for as long as a "
            "start takes, until `make undeploy`, or DEPLOY_WORKERS_MIN=0 and `make deploy`."
        )
    return (
        "Nothing keeps a worker up now, but each request starts one again, billed for as long as its start takes (up "
        f"to {most} at once): `make undeploy` ends that."
    )


def _stage(workers: WorkerList) -> str:
    current = [worker for worker in workers.workers if not worker.is_stale]
    states = [worker.status for worker in current]
    ready = sum(state in ("IDLE", "RUNNING") for state in states)
    if ready:
        return f"ready: {ready} of {len(current)} workers"
    starting = [worker for worker in current if worker.status == "INITIALIZING"]
    if any(worker.uptime_seconds is not None for worker in starting):
        return "loading the model"
    if any(worker.gpu_type_id for worker in starting):
        return "pulling the image"
    if starting or "THROTTLED" in states:
        return "waiting for a GPU"
    if "UNHEALTHY" in states:
        return "unhealthy"
    return "waiting for a worker of the new release" if workers.workers else "waiting for a worker"
