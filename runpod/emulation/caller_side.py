"""The emulator's caller side: /run, /runsync, /status, /stream, /cancel, /retry, /purge-queue, /health and /openai."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from aiohttp import web

from emulation.jobs import CANCELLED, COMPLETED, FAILED, IN_PROGRESS, IN_QUEUE, TIMED_OUT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from emulation.jobs import Job, JobBook
    from emulation.rules import Rules
    from emulation.webhooks import Webhooks

RUN_LIMIT = 10_000_000  # bytes
RUNSYNC_LIMIT = 20_000_000
DEFAULT_WAIT_MS = 90_000
SSE_HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}


class CallerSide:
    """Answer an endpoint's callers. `key`: what they must send as a bearer token; None lets everybody in."""

    def __init__(self, book: JobBook, rules: Rules, key: str | None, webhooks: Webhooks) -> None:
        self.book = book
        self.webhooks = webhooks
        self.rules = rules
        self.key = key

    def add_routes(self, app: web.Application, endpoint: str) -> None:
        """Mount the calls under /v2/<endpoint>/."""
        add = app.router.add_route
        base = f"/v2/{endpoint}"
        add("POST", base + "/run", self._guarded("run", self._run))
        add("POST", base + "/runsync", self._guarded("runsync", self._runsync))
        add("GET", base + "/status/{job}", self._guarded("status", self._status))
        add("GET", base + "/stream/{job}", self._guarded("stream", self._stream))
        add("POST", base + "/cancel/{job}", self._guarded("cancel", self._cancel))
        add("POST", base + "/retry/{job}", self._guarded("retry", self._retry))
        add("POST", base + "/purge-queue", self._guarded("purge-queue", self._purge))
        add("GET", base + "/health", self._guarded("health", self._health))
        add("*", base + "/openai/{route:.+}", self._guarded("openai", self._openai))

    def _guarded(
        self, call: str, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def guarded(request: web.Request) -> web.StreamResponse:
            # Both forms are in the platform's documentation: with and without "Bearer".
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if self.key is not None and given != self.key:
                return web.json_response({"error": "Unauthorized"}, status=401)
            allowed = self.rules.enter(call)
            try:
                accident = self.rules.accident("caller")
                if not allowed or (accident is not None and accident.status == HTTPStatus.TOO_MANY_REQUESTS):
                    return web.json_response({"error": "Too many requests"}, status=429)
                await self.rules.delay("caller")
                if accident is None:
                    return await self._in_time(request, call, handler)
                if accident.after:
                    await handler(request)
                if accident.kind == "status":
                    return web.json_response({"error": "scripted"}, status=accident.status)
                if accident.kind == "hang":
                    await asyncio.Event().wait()  # until the caller leaves
                return _cut(request)
            finally:
                self.rules.leave(call)

        return guarded

    async def _in_time(
        self, request: web.Request, call: str, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Answer a call; the gateway cuts one that takes too long. The job is left as it is."""
        cut = self.rules.gateway_cut if call in ("openai", "runsync") else None
        try:
            async with asyncio.timeout(cut):
                return await handler(request)
        except TimeoutError:
            return _cut(request)

    async def _submit(self, request: web.Request, call: str, limit: int) -> Job:
        raw = await request.read()
        if len(raw) > limit:
            raise _bad_request(f"a payload of {len(raw)} bytes is over the limit of {limit}")
        try:
            body = json.loads(raw)
        except ValueError as error:
            raise _bad_request("the body is not JSON") from error
        if not isinstance(body, dict) or "input" not in body:
            raise _bad_request("the body must be an object with the key `input`")
        job = await self.book.submit(body["input"], call=call, policy=body.get("policy"))
        if isinstance(url := body.get("webhook"), str):
            self.webhooks.add(job, url)
        return job

    async def _run(self, request: web.Request) -> web.Response:
        job = await self._submit(request, "run", RUN_LIMIT)
        return web.json_response({"id": job.id, "status": job.status})

    async def _runsync(self, request: web.Request) -> web.Response:
        wait = min(max(float(request.query.get("wait", DEFAULT_WAIT_MS)), 1000), 300_000) / 1000
        job = await self._submit(request, "runsync", RUNSYNC_LIMIT)
        if await job.finish(wait):
            return web.json_response(job.view())
        return web.json_response({"id": job.id, "status": job.status})

    def _find(self, request: web.Request) -> Job:
        job = self.book.find(request.match_info["job"])
        if job is None:
            text = json.dumps({"error": "job not found"})
            raise web.HTTPNotFound(text=text, content_type="application/json")
        return job

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response(self._find(request).view())

    async def _stream(self, request: web.Request) -> web.Response:
        job = self._find(request)
        fresh = job.chunks[job.read :]
        job.read += len(fresh)
        answer: dict[str, Any] = {"status": job.status, "stream": [{"output": chunk} for chunk in fresh]}
        if job.error is not None:
            answer["error"] = job.error
        return web.json_response(answer)

    async def _cancel(self, request: web.Request) -> web.Response:
        job = self._find(request)
        if not job.final:
            await self.book.stop(job, CANCELLED)
        return web.json_response({"id": job.id, "status": job.status})

    async def _retry(self, request: web.Request) -> web.Response:
        job = self._find(request)
        if job.status not in (FAILED, TIMED_OUT):
            raise _bad_request(f"a job that is {job.status} cannot be retried")
        await self.book.retry(job)
        return web.json_response({"id": job.id, "status": job.status})

    async def _purge(self, _request: web.Request) -> web.Response:
        return web.json_response({"removed": await self.book.purge(), "status": "completed"})

    async def _health(self, _request: web.Request) -> web.Response:
        states = [job.status for job in self.book.jobs.values()]
        busy = {job.worker for job in self.book.jobs.values() if job.status == IN_PROGRESS}
        alive = set(self.book.last_ping)
        idle = len(alive - busy)
        workers = {"idle": idle, "running": len(busy), "ready": idle + len(busy)}
        return web.json_response(
            {
                "jobs": {
                    **self.book.counts,
                    "inProgress": states.count(IN_PROGRESS),
                    "inQueue": states.count(IN_QUEUE),
                },
                "workers": {**workers, "initializing": int(not alive), "throttled": 0, "unhealthy": 0},
            }
        )

    async def _openai(self, request: web.Request) -> web.StreamResponse:
        """Turn an OpenAI request into a job, as the gateway does; the caller's headers do not reach the worker.

        What a yield becomes is inferred from RunPod's own vLLM worker: texts are an SSE stream, an object is the
        answer, a failed job is a 500 (`failed_openai_status` can make it the 200 that has been seen, too).
        """
        job_input: dict[str, Any] = {"openai_route": "/" + request.match_info["route"]}
        stream = False
        if request.method != "GET":
            try:
                job_input["openai_input"] = body = json.loads(await request.read())
            except ValueError:
                return web.json_response({"error": "the body is not JSON"}, status=400)
            stream = isinstance(body, dict) and bool(body.get("stream"))
        job = await self.book.submit(job_input, call="runsync")
        while not job.final and not (stream and job.chunks):
            await job.change()
        if stream and job.chunks and isinstance(job.chunks[0], str):
            return await self._relay(request, job)
        if job.status != COMPLETED:
            return web.json_response({"error": job.error or job.status}, status=self.rules.failed_openai_status)
        output = job.output
        return web.json_response(output[0] if isinstance(output, list) and len(output) == 1 else output)

    async def _relay(self, request: web.Request, job: Job) -> web.StreamResponse:
        response = web.StreamResponse(headers=SSE_HEADERS)
        await response.prepare(request)
        sent = 0
        while True:
            for chunk in job.chunks[sent:]:
                await response.write(chunk.encode() if isinstance(chunk, str) else json.dumps(chunk).encode())
                sent += 1
            if job.final:
                break
            await job.change()
        await response.write_eof()
        return response


def _cut(request: web.Request) -> web.StreamResponse:
    """Cut the caller's connection."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _bad_request(message: str) -> web.HTTPBadRequest:
    return web.HTTPBadRequest(text=json.dumps({"error": message}), content_type="application/json")
