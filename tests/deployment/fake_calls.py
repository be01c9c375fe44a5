"""What the stand-in has beside the REST API: the endpoints' own addresses, and GraphQL as far as cached models need it."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.deployment.fake_bodies import release

if TYPE_CHECKING:
    from tests.deployment.fake_runpod import FakeRunpod

Json = dict[str, Any]

KEY = "rpa_STANDINKEY0123456789"


async def call(runpod: FakeRunpod, request: web.Request) -> web.StreamResponse:
    """Answer a caller."""
    endpoint, way = request.match_info["id"], request.match_info["tail"]
    body = await request.json() if request.can_read_body else None
    runpod.requests.append((request.method, f"/calls/{way}", body))
    if request.headers.get("Authorization") != f"Bearer {KEY}" or endpoint not in runpod.endpoints:
        return web.json_response({"error": "unauthorized"}, status=401)
    runpod.booting.setdefault(endpoint, 0)
    if way == "run":
        return web.json_response({"id": "job-u1", "status": "IN_QUEUE"})
    if way == "health":
        jobs = {"completed": 1, "failed": 0, "inProgress": 0, "inQueue": 1, "retried": 0}
        return web.json_response({"jobs": jobs, "workers": {"idle": 1, "running": 0}})
    if way.endswith("v1/chat/completions"):
        return await _chat(runpod, request, body or {})
    if way == "ping":
        return web.json_response({})
    return web.json_response({"error": f"no such route {way}"}, status=404)


async def _chat(runpod: FakeRunpod, request: web.Request, body: Json) -> web.StreamResponse:
    wanted = runpod.endpoints[request.match_info["id"]]["env"]["SERVE_SERVED_MODEL_NAME"]
    if body["model"] != wanted:
        return web.json_response({"error": {"message": "no such model", "code": 404}}, status=404)
    choice = {"index": 0, "finish_reason": "stop"}
    common = {"id": "chatcmpl-1", "created": 1, "model": body["model"]}
    if not body.get("stream"):
        message = {"role": "assistant", "content": runpod.answer}
        whole = {**common, "object": "chat.completion", "choices": [{**choice, "message": message}]}
        return web.json_response(whole)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    chunk = {**common, "object": "chat.completion.chunk"}
    chunk["choices"] = [{**choice, "delta": {"content": runpod.answer}}]
    await response.write(f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode())
    return response


async def graphql(runpod: FakeRunpod, request: web.Request) -> web.Response:
    """Answer a query: only what cached models need."""
    body = await request.json()
    runpod.requests.append(("POST", "/graphql", copy.deepcopy(body)))
    if request.headers.get("Authorization") != f"Bearer {KEY}":
        return web.json_response({"errors": [{"message": "unauthorized"}]}, status=401)
    if "saveEndpoint" in body["query"]:
        saved = body["variables"]["input"]
        runpod.saved.append(saved)
        old = runpod.model_references.get(saved["id"], [])
        new = saved["modelReferences"]
        _release_models(runpod, saved["id"], old, new)
        if runpod.commit:
            resolved = [f"{reference.rpartition(':')[0]}:{runpod.commit}" for reference in new]
            _release_models(runpod, saved["id"], new, resolved)
            new = resolved
        runpod.model_references[saved["id"]] = new
        return web.json_response({"data": {"saveEndpoint": {"id": saved["id"], "modelReferences": []}}})
    endpoints = [
        {
            "id": item["id"],
            "name": item["name"],
            "templateId": f"template-of-{item['id']}",
            "gpuIds": ",".join(item["gpu"]["pools"]),
            "gpuCount": item["gpu"]["count"],
            "instanceIds": None,
            "workersMin": item["workers"]["min"],
            "workersMax": item["workers"]["max"],
            "idleTimeout": item["workers"].get("idleTimeout"),
            "modelReferences": runpod.model_references.get(item["id"], []),
        }
        for item in runpod.endpoints.values()
    ]
    return web.json_response({"data": {"myself": {"endpoints": endpoints}}})


def _release_models(runpod: FakeRunpod, endpoint: str, old: list[str], new: list[str]) -> None:
    releases = runpod.releases[endpoint]
    diff = [{"field": "modelReferences", "old": old, "new": new}]
    releases.insert(0, release(len(releases) + 1, diff))
