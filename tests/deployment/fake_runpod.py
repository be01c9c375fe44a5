"""A stand-in for RunPod on a loopback port, made from the API's own description, that can stumble as the real one does.

Every request is checked against the description (path, method, query, body), every answer too, so that the stand-in
cannot drift from what RunPod publishes. It keeps state: endpoints, releases, workers that boot, volumes, money.
What the description says in words only (which fields are refused together) is written out here.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import json
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.deployment.fake_bodies import BOOT, CREATED_AT, GPUS, billing, diff, gpu_type, in_stock, release
from tests.deployment.fake_calls import KEY, call, graphql
from tests.deployment.fake_description import described

if TYPE_CHECKING:
    from collections.abc import Sequence

Json = dict[str, Any]

PROBLEM = "application/problem+json"


@dataclass
class Failure:
    """What goes wrong with the next call that matches; `carried_out` calls are done before they fail.

    With a `body` that is what is answered, whatever the description says of it.
    """

    method: str
    path: str
    status: int | None = 500  # None: the connection is cut
    body: bytes | None = None
    errors: tuple[str, ...] = ()
    detail: str = "injected"
    headers: dict[str, str] = field(default_factory=dict)
    carried_out: bool = False
    delay: float = 0.0
    times: int = 1


class FakeRunpod:
    """RunPod: use as a context manager; `url` is what RUNPOD_API_URL should be."""

    def __init__(self) -> None:
        self.description = described()
        self.endpoints: dict[str, Json] = {}
        self.releases: dict[str, list[Json]] = {}
        self.booting: dict[str, int] = {}
        self.volumes: dict[str, Json] = {}
        self.gpus = [gpu_type(*gpu) for gpu in GPUS]
        self.failures: list[Failure] = []
        self.requests: list[tuple[str, str, Any]] = []
        self.boot: Sequence[Json | tuple[Json, ...]] = BOOT
        self.log = [f"line {number}" for number in range(3)]
        self.answer = "Paris"
        self.saved: list[Json] = []
        self.model_references: dict[str, list[str]] = {}
        self.commit = ""  # what RunPod turns a model's `main` into, where it does
        self.unlisted = 0  # in so many lists a new endpoint is still missing
        self.creates_at_once = 1  # so many have to arrive before any of them is carried out
        self._arrived = 0
        self.rivals: list[Json] = []  # endpoints that somebody else makes just before the next create
        self.user_agents: set[str] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    # ---- life

    def __enter__(self) -> FakeRunpod:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _start(self) -> None:
        application = web.Application()
        # RunPod has these on three hosts; the paths are the same.
        application.router.add_route("*", r"/v2/{id:ep\d+}/{tail:.*}", functools.partial(call, self))
        application.router.add_route("*", "/v2/{tail:.*}", self._api)
        application.router.add_post("/graphql", functools.partial(graphql, self))
        application.router.add_route("*", "/balanced/{id}/{tail:.*}", functools.partial(call, self))
        self._runner = web.AppRunner(application, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.root = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        self.url = self.root + "/v2"
        self.graphql_url = self.root + "/graphql"

    # ---- what tests ask

    def calls(self, method: str, path: str = "") -> list[Any]:
        """Return the bodies of the calls made so far that match."""
        return [body for made, where, body in self.requests if made == method and where.startswith(path)]

    @property
    def only(self) -> Json:
        """Return the one endpoint there is."""
        (endpoint,) = self.endpoints.values()
        return endpoint

    def set_stock(self, pool: str, **limits: Any) -> None:
        """Limit what is in stock of a pool: `availability`, free GPUs on a host (`count`), `cuda`, `centers`."""
        for gpu in self.gpus:
            if gpu["pool"] == pool:
                gpu["_stock"] = limits

    def add_volume(self, volume_id: str, center: str = "EU-RO-1") -> None:
        """Add a network volume."""
        self.volumes[volume_id] = {
            "id": volume_id, "name": "weights", "size": 100, "dataCenter": center, "type": "STANDARD",
        }  # fmt: skip

    # ---- the REST API

    async def _api(self, request: web.Request) -> web.StreamResponse:
        self.user_agents.add(request.headers.get("User-Agent", ""))
        path = request.path.removeprefix("/v2")
        body = await request.json() if request.can_read_body else None
        self.requests.append((request.method, path, copy.deepcopy(body)))
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return _problem(401, "missing bearer token")
        operation = self.description.operation(request.method, request.path)
        if operation is None:
            return _problem(404, "no such path")
        if unknown := set(request.query) - self.description.query_names(operation):
            return _problem(422, "validation failed", [f"query.{name}: unknown" for name in unknown])
        failure = self._failure(request.method, path)
        if failure is not None and failure.delay:
            await asyncio.sleep(failure.delay)
        if failure is not None and not failure.carried_out:
            return self._fail(request, failure)
        if "requestBody" in operation:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
            if errors := self.description.errors(schema, body):
                return _problem(422, "Request validation failed.", errors)
        answer = await self._handle(request, path, body)
        if failure is not None:
            return self._fail(request, failure)
        if isinstance(answer, web.StreamResponse):
            return answer
        status = "201" if request.method == "POST" else "200"
        schema = operation["responses"][status]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert self.description.errors(schema, answer) == []
        return web.json_response(answer, status=int(status))

    def _failure(self, method: str, path: str) -> Failure | None:
        found = next((item for item in self.failures if item.method == method and path.startswith(item.path)), None)
        if found is not None:
            found.times -= 1
            if found.times <= 0:
                self.failures.remove(found)
        return found

    def _fail(self, request: web.Request, failure: Failure) -> web.Response:
        if failure.status is None:
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        if failure.body is not None:
            return web.Response(
                body=failure.body, status=failure.status, content_type="application/json", headers=failure.headers
            )
        return _problem(failure.status, failure.detail, list(failure.errors), failure.headers)

    async def _handle(self, request: web.Request, path: str, body: Any) -> Any:
        match [request.method, *path.strip("/").split("/")]:
            case ["GET", "serverless"]:
                if self.unlisted:
                    self.unlisted -= 1
                    return {"endpoints": list(self.endpoints.values())[:-1]}
                return {"endpoints": list(self.endpoints.values())}
            case ["POST", "serverless"]:
                self._arrived += 1
                while self._arrived < self.creates_at_once:
                    await asyncio.sleep(0.01)
                return self._create(body)
            case ["GET", "catalog", "gpus"]:
                if request.query.get("include") == "AVAILABILITY" and "product" not in request.query:
                    return _problem(400, "product is required with include=AVAILABILITY")
                return {"gpus": [in_stock(gpu, request.query) for gpu in self.gpus]}
            case ["GET", "billing", "serverless"]:
                return billing(request.query["serverlessId"])
            case [method, "network-volumes", volume] if volume in self.volumes:
                if method == "DELETE":
                    del self.volumes[volume]
                    return web.Response(status=204)
                return self.volumes[volume]
            case [method, "serverless", endpoint, *rest] if endpoint in self.endpoints:
                return await self._on_endpoint(request, method, endpoint, rest, body)
        return _problem(404, "resource not found")

    async def _on_endpoint(self, request: web.Request, method: str, endpoint: str, rest: list[str], body: Any) -> Any:
        match [method, *rest]:
            case ["GET"]:
                return self.endpoints[endpoint]
            case ["PATCH"]:
                return self._update(endpoint, body)
            case ["DELETE"]:
                del self.endpoints[endpoint]
                return web.Response(status=204)
            case ["GET", "workers"]:
                return self._workers(endpoint)
            case ["GET", "releases"]:
                return self._release_list(endpoint)
            case ["GET", "workers", _, "logs"]:
                return await self._stream_log(request)
        return _problem(404, "resource not found")

    def _create(self, body: Json) -> Any:
        if refused := _refused(body):
            return refused
        if self.rivals:
            self._create(self.rivals.pop(0))
        number = len(self.releases) + 1
        endpoint_id = f"ep{number}"
        calls = f"{self.root}/v2/{endpoint_id}"
        ways = ("run", "status", "stream", "cancel", "retry", "health")
        urls = {way: f"{calls}/{way}" for way in ways} | {
            "runSync": f"{calls}/runsync", "purgeQueue": f"{calls}/purge-queue",
        }  # fmt: skip
        if body["type"] == "LOAD_BALANCER":
            base = f"{self.root}/balanced/{endpoint_id}"
            urls = {"base": base, "health": f"{base}/ping"}
        gpu = {"count": 1, "allowedCudaVersions": [], "minCudaVersion": None, **body["gpu"]}
        defaults = {"env": {}, "flashboot": "OFF", "timeout": 0, "dataCenterIds": [], "networkVolumes": []}
        workers = {"min": 0, "max": 3, **body.get("workers", {})}
        if _idle_timeout_applies(body):
            workers.setdefault("idleTimeout", 10)
        self.endpoints[endpoint_id] = {
            **defaults, **body, "id": endpoint_id, "gpu": gpu, "workers": workers, "requestUrls": urls,
            "createdAt": CREATED_AT,
        }  # fmt: skip
        self.releases[endpoint_id] = [release(1, [])]
        if workers["min"]:
            self.booting[endpoint_id] = 0
        return self.endpoints[endpoint_id]

    def _update(self, endpoint_id: str, body: Json) -> Any:
        stored = self.endpoints[endpoint_id]
        merged = {**stored, **body}
        for part in ("gpu", "workers"):
            if part in body:
                merged[part] = {**stored[part], **body[part]}
        if "pools" in body.get("gpu", {}) and "excludedTypes" not in body["gpu"]:
            merged["gpu"].pop("excludedTypes", None)
        if not _idle_timeout_applies(merged) and "idleTimeout" not in body.get("workers", {}):
            merged["workers"].pop("idleTimeout", None)
        if refused := _refused(merged):
            return refused
        if merged["gpu"]["minCudaVersion"] == "":
            merged["gpu"]["minCudaVersion"] = None
        changes = diff(stored, merged)
        if changes:
            releases = self.releases[endpoint_id]
            releases.insert(0, release(len(releases) + 1, changes))
        self.endpoints[endpoint_id] = merged
        return merged

    def _workers(self, endpoint_id: str) -> Json:
        workers: list[Json] = []
        if endpoint_id in self.booting:
            state = self.boot[min(self.booting[endpoint_id], len(self.boot) - 1)]
            self.booting[endpoint_id] += 1
            version = len(self.releases[endpoint_id])
            states = state if isinstance(state, tuple) else (state,)
            workers = [
                {"id": "worker1", "gpuCount": 1, "isStale": False, "version": version, **item} for item in states
            ]
        counts = dict.fromkeys(("running", "idle", "initializing", "throttled", "unhealthy"), 0)
        for worker in workers:
            counts[worker["status"].lower()] += 1
        return {
            "workers": workers,
            "summary": {**counts, "total": len(workers)},
            "endpointVersion": len(self.releases[endpoint_id]),
        }

    def _release_list(self, endpoint_id: str) -> Json:
        releases = self.releases[endpoint_id]
        rollout = {"inProgress": False, "workersOnLatest": 0, "workersTotal": 0, "percentOnLatest": 0}
        return {"endpointVersion": len(releases), "rollout": rollout, "releases": releases}

    async def _stream_log(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number, line in enumerate(self.log[-int(request.query.get("tail", 100)) :]):
            ts = f"2026-11-01T00:00:{number:02d}Z"
            data = json.dumps({"source": "container", "line": line, "ts": ts})
            await response.write(f"id: {ts}\ndata: {data}\n\n".encode())
        return response


def _problem(
    status: int, detail: str, errors: list[str] | None = None, headers: dict[str, str] | None = None
) -> web.Response:
    body = {"title": f"HTTP {status}", "status": status, "detail": detail} | ({"errors": errors} if errors else {})
    return web.json_response(body, status=status, content_type=PROBLEM, headers=headers)


def _idle_timeout_applies(body: Json) -> bool:
    return not (body["type"] == "QUEUE" and body["scaling"]["type"] == "REQUEST_COUNT")


def _refused(body: Json) -> web.Response | None:
    if not _idle_timeout_applies(body) and "idleTimeout" in body.get("workers", {}):
        return _problem(422, "Request validation failed.", ["workers.idleTimeout: not with REQUEST_COUNT on a queue"])
    if body["type"] == "LOAD_BALANCER" and body["scaling"]["type"] != "REQUEST_COUNT":
        return _problem(422, "Request validation failed.", ["scaling.type: must be REQUEST_COUNT"])
    if unknown := set(body["gpu"]["pools"]) - {gpu[1] for gpu in GPUS}:
        return _problem(422, "Request validation failed.", [f"gpu.pools: unknown pool {min(unknown)}"])
    return None
