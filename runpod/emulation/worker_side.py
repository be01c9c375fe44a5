"""The emulator's worker side: the calls that RunPod's SDK (1.12) makes from inside a worker."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

from aiohttp import web

from emulation.jobs import COMPLETED, FAILED, IN_PROGRESS

if TYPE_CHECKING:
    from emulation.jobs import Job, JobBook
    from emulation.rules import Rules

CHUNK_LIMIT = 1_000_000  # bytes of one job-stream body
DONE_LIMIT = 20_000_000  # bytes of one job-done body


class WorkerSide:
    """Answer job-take, job-take-batch, job-stop, job-stream, job-done and ping.

    Jobs and workers are told apart by the path alone: the SDK's X-Request-ID header is that of another job when
    several run at the same time. `posts` counts the calls by name.
    """

    def __init__(self, book: JobBook, rules: Rules) -> None:
        self.book = book
        self.rules = rules
        self.posts: dict[str, int] = {}
        self.pings: list[dict[str, str]] = []
        self.stopped: set[str] = set()  # workers that asked for a restart (`stopPod`)
        self.taking = asyncio.Event()  # set by the first worker that asks for a job
        self._vanished: set[str] = set()
        self._begin = time.monotonic()

    def add_routes(self, app: web.Application, endpoint: str) -> None:
        """Mount the calls under /v2/<endpoint>/."""
        base = f"/v2/{endpoint}"
        app.router.add_get(base + "/job-take/{worker}", self._take_one)
        app.router.add_get(base + "/job-take-batch/{worker}", self._take_many)
        app.router.add_get(base + "/job-stop/{worker}", self._stop)
        app.router.add_post(base + "/job-stream/{worker}/{job}", self._stream)
        app.router.add_post(base + "/job-done/{worker}/{job}", self._done)
        app.router.add_get(base + "/ping/{worker}", self._ping)

    async def _enter(self, request: web.Request, call: str) -> str:
        """Apply the rules to one call; return the worker's id."""
        worker = request.match_info["worker"]
        self.posts[call] = self.posts.get(call, 0) + 1
        limit = self.rules.vanish_after_chunks
        if limit is not None and self.posts.get("stream", 0) > limit:
            self._vanished.add(worker)
            self.rules.vanish_after_chunks = None  # one worker, once
        if worker in self._vanished:
            await asyncio.Event().wait()  # as behind a cut cable: no answer, ever
        await self.rules.delay(call)
        if self.rules.refuses(call):
            raise web.HTTPTooManyRequests
        return worker

    async def _take_one(self, request: web.Request) -> web.Response:
        jobs = await self._take(request, 1)
        return web.json_response(_as_sent(jobs[0])) if jobs else web.Response(status=204)

    async def _take_many(self, request: web.Request) -> web.Response:
        jobs = await self._take(request, int(request.query["batch_size"]))
        return web.json_response([_as_sent(job) for job in jobs]) if jobs else web.Response(status=204)

    async def _take(self, request: web.Request, count: int) -> list[Job]:
        worker = await self._enter(request, "take")
        self.taking.set()
        cold = self._begin + self.rules.cold_start - time.monotonic()
        if cold > 0:
            await asyncio.sleep(min(cold, self.rules.hold))
            return []
        jobs = await self.book.take(worker, count, self.rules.hold)
        if worker in self._vanished or request.transport is None or request.transport.is_closing():
            await self.book.give_back(jobs)
            return []
        return jobs

    async def _stop(self, request: web.Request) -> web.Response:
        worker = await self._enter(request, "stop")
        ids = await self.book.stop_signals(worker, self.rules.hold)
        return web.json_response({"jobsToStop": ids}) if ids else web.Response(status=204)

    async def _stream(self, request: web.Request) -> web.Response:
        worker = await self._enter(request, "stream")
        raw = await request.read()
        if len(raw) > CHUNK_LIMIT:
            raise web.HTTPBadRequest(text=f"a chunk of {len(raw)} bytes is over the limit of {CHUNK_LIMIT}")
        job = self._own(request, worker)
        if job is not None:
            job.add_chunk(json.loads(raw)["output"])
        return web.Response()

    async def _done(self, request: web.Request) -> web.Response:
        worker = await self._enter(request, "done")
        raw = await request.read()
        if len(raw) > DONE_LIMIT:
            raise web.HTTPBadRequest(text=f"a result of {len(raw)} bytes is over the limit of {DONE_LIMIT}")
        body: dict[str, Any] = json.loads(raw)
        if body.get("stopPod"):
            self.stopped.add(worker)
        job = self._own(request, worker)
        if job is None:
            return web.Response()
        if body.get("status") == IN_PROGRESS:
            job.output = body.get("output")
        elif error := body.get("error"):
            self.book.counts["failed"] += 1
            job.end(FAILED, error=error if isinstance(error, str) else json.dumps(error))
        else:
            self.book.counts["completed"] += 1
            job.end(COMPLETED, output=body.get("output"))
        return web.Response()

    async def _ping(self, request: web.Request) -> web.Response:
        worker = await self._enter(request, "ping")
        self.pings.append(dict(request.query))
        del self.pings[:-1000]
        self.book.last_ping[worker] = time.monotonic()
        return web.Response()

    def _own(self, request: web.Request, worker: str) -> Job | None:
        """Return the job if this worker still has it: a late post for a cancelled or requeued job changes nothing."""
        job = self.book.find(request.match_info["job"])
        return job if job is not None and job.worker == worker and job.status == IN_PROGRESS else None


def _as_sent(job: Job) -> dict[str, Any]:
    return {"id": job.id, "input": job.input, "delayTime": 0, "error": "", "retries": job.retries, "status": 200}
