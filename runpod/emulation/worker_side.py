"""The emulator's worker side: the calls that RunPod's SDK (1.12) makes from inside a worker."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

from aiohttp import web

from emulation.accidents import ODD_ITEMS, Accident
from emulation.jobs import COMPLETED, FAILED, IN_PROGRESS

if TYPE_CHECKING:
    from collections.abc import Callable

    from emulation.jobs import Job, JobBook
    from emulation.rules import Rules

CHUNK_LIMIT = 1_000_000  # bytes of one job-stream body
DONE_LIMIT, SYNC_DONE_LIMIT = 10_000_000, 20_000_000  # bytes of one job-done body, for /run and for /runsync
SPOILT_BODIES = {
    "html": (b"<html><body>502 Bad Gateway</body></html>", "text/html"),
    "broken": (b'[{"id": ', "application/json"),
    "only-odd": (json.dumps(ODD_ITEMS).encode(), "application/json"),
    "empty": (b"[]", "application/json"),
}
MORE = 2  # as many more jobs than were asked for


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
        self._again: dict[str, list[Job]] = {}  # jobs that come a second time
        self._first_take: float | None = None

    def add_routes(self, app: web.Application, endpoint: str) -> None:
        """Mount the calls under /v2/<endpoint>/."""
        base = f"/v2/{endpoint}"
        app.router.add_get(base + "/job-take/{worker}", self._take_one)
        app.router.add_get(base + "/job-take-batch/{worker}", self._take_many)
        app.router.add_get(base + "/job-stop/{worker}", self._stop)
        app.router.add_post(base + "/job-stream/{worker}/{job}", self._stream)
        app.router.add_post(base + "/job-done/{worker}/{job}", self._done)
        app.router.add_get(base + "/ping/{worker}", self._ping)

    async def _enter(self, request: web.Request, call: str) -> tuple[str, Accident | None]:
        """Apply the rules to one call; return the worker's id, and what happens to the call."""
        worker = request.match_info["worker"]
        self.posts[call] = self.posts.get(call, 0) + 1
        limit = self.rules.vanish_after_chunks
        if limit is not None and self.posts.get("stream", 0) > limit:
            self._vanished.add(worker)
            self.rules.vanish_after_chunks = None  # one worker, once
        if worker in self._vanished:
            await asyncio.Event().wait()  # as behind a cut cable: no answer, ever
        await self.rules.delay(call)
        return worker, self.rules.accident(call)

    async def _take_one(self, request: web.Request) -> web.StreamResponse:
        return await self._take(request, 1)

    async def _take_many(self, request: web.Request) -> web.StreamResponse:
        return await self._take(request, int(request.query["batch_size"]))

    async def _take(self, request: web.Request, count: int) -> web.StreamResponse:
        worker, accident = await self._enter(request, "take")
        self.taking.set()
        if accident is not None and not accident.after and accident.kind in ("status", "reset", "hang"):
            return await _spoilt(request, accident)
        kind = accident.kind if accident is not None else ""
        if kind in SPOILT_BODIES:
            return web.Response(body=SPOILT_BODIES[kind][0], content_type=SPOILT_BODIES[kind][1])
        if self._first_take is None:
            self._first_take = time.monotonic()
        cold = self._first_take + self.rules.cold_start - time.monotonic()
        if cold > 0:
            await asyncio.sleep(min(cold, self.rules.hold))
            return web.Response(status=204)
        again = [job for job in self._again.pop(worker, []) if not job.final]
        asked = count + MORE if kind == "more" else count
        jobs = await self.book.take(worker, asked, 0.01 if again else self.rules.hold)
        gone = worker in self._vanished or request.transport is None or request.transport.is_closing()
        if gone or (accident is not None and (accident.after or kind == "cut")):
            await self.book.give_back(jobs)
            return await _spoilt(request, accident or Accident("reset"), [_as_sent(job) for job in jobs])
        if kind == "twice":
            self._again[worker] = jobs
        items = [_as_sent(job) for job in (*jobs, *again)]
        if kind == "odd":
            items = [*ODD_ITEMS, *items, *ODD_ITEMS]
        elif kind == "twice":
            items += items[:1]
        elif kind == "text":
            return web.Response(text=json.dumps(items))
        elif count == 1 and len(items) == 1:
            return web.json_response(items[0])
        return web.json_response(items) if items else web.Response(status=204)

    async def _stop(self, request: web.Request) -> web.StreamResponse:
        worker, accident = await self._enter(request, "stop")
        if accident is not None:
            return await _spoilt(request, accident)
        ids = await self.book.stop_signals(worker, self.rules.hold)
        return web.json_response({"jobsToStop": ids}) if ids else web.Response(status=204)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        return await self._post(request, "stream", self._add_chunk)

    async def _done(self, request: web.Request) -> web.StreamResponse:
        return await self._post(request, "done", self._end)

    async def _post(
        self, request: web.Request, call: str, apply: Callable[[Job | None, str, bytes], None]
    ) -> web.StreamResponse:
        worker, accident = await self._enter(request, call)
        raw = await request.read()
        if accident is None or accident.after or accident.kind == "cut":
            apply(self._own(request, worker), worker, raw)
        return web.Response() if accident is None else await _spoilt(request, accident)

    def _add_chunk(self, job: Job | None, _worker: str, raw: bytes) -> None:
        if len(raw) > CHUNK_LIMIT:
            raise web.HTTPBadRequest(text=f"a chunk of {len(raw)} bytes is over the limit of {CHUNK_LIMIT}")
        if job is not None:
            job.add_chunk(json.loads(raw)["output"])

    def _end(self, job: Job | None, worker: str, raw: bytes) -> None:
        limit = SYNC_DONE_LIMIT if job is not None and job.id.startswith("sync-") else DONE_LIMIT
        if len(raw) > limit:
            raise web.HTTPBadRequest(text=f"a result of {len(raw)} bytes is over the limit of {limit}")
        body: dict[str, Any] = json.loads(raw)
        if body.get("stopPod"):
            self.stopped.add(worker)
        if job is None:
            return
        if body.get("status") == IN_PROGRESS:
            job.output = body.get("output")
        elif error := body.get("error"):
            self.book.counts["failed"] += 1
            job.end(FAILED, error=error if isinstance(error, str) else json.dumps(error))
        else:
            self.book.counts["completed"] += 1
            job.end(COMPLETED, output=body.get("output"))

    async def _ping(self, request: web.Request) -> web.StreamResponse:
        worker, accident = await self._enter(request, "ping")
        if accident is not None and not accident.after:
            return await _spoilt(request, accident)
        self.pings.append(dict(request.query))
        del self.pings[:-1000]
        self.book.last_ping[worker] = time.monotonic()
        return web.Response()

    def _own(self, request: web.Request, worker: str) -> Job | None:
        """Return the job if this worker still has it: a late post for a cancelled or requeued job changes nothing."""
        job = self.book.find(request.match_info["job"])
        return job if job is not None and job.worker == worker and job.status == IN_PROGRESS else None


async def _spoilt(
    request: web.Request, accident: Accident, items: list[dict[str, Any]] | None = None
) -> web.StreamResponse:
    """Return the answer that an accident makes; a connection that is to be cut is cut, one that hangs is held."""
    if accident.kind == "status":
        page = f"<html><body>{accident.status}</body></html>"
        return web.Response(status=accident.status, text=page, content_type="text/html")
    if accident.kind == "hang":
        await asyncio.Event().wait()  # until the other side leaves
    if accident.kind == "cut":
        body = json.dumps(items or [{"ok": True}]).encode()
        half = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(body))})
        await half.prepare(request)
        await half.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _as_sent(job: Job) -> dict[str, Any]:
    return {"id": job.id, "input": job.input, "delayTime": 0, "error": "", "retries": job.retries, "status": 200}
