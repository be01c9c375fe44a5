"""One picture of an endpoint, put together from the API, the endpoint's own addresses and the billing."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Any

from serving.errors import ServingError

if TYPE_CHECKING:
    from deployment.rest_api import RunpodApi

Json = dict[str, Any]

LOG_LINES = 50
LOG_IDLE_S = 2.0
_TROUBLE = re.compile(r"error|exception|traceback|fail|unhealthy|killed|out of memory", re.IGNORECASE)


def read(api: RunpodApi, endpoint: Json) -> Json:
    """Return the endpoint's state. What does not answer in a few seconds is None, not a failure."""
    workers = api.workers(endpoint["id"])
    releases = api.releases(endpoint["id"])
    newest = releases["releases"][0] if releases["releases"] else {}
    rollout = releases["rollout"]
    gpu = endpoint.get("gpu") or {}
    version = releases.get("endpointVersion")
    return {
        "id": endpoint["id"],
        "name": endpoint["name"],
        "type": endpoint.get("type") or "QUEUE",
        "base_url": base_url(endpoint),
        "image": endpoint.get("image"),
        "gpu": f"{gpu.get('count', 1)}x {' or '.join(gpu.get('pools', []))}",
        "release": {
            "version": newest.get("version") if version is None else version,
            "created_at": newest.get("createdAt"),
            "rollout": rollout if rollout["inProgress"] else None,
        },
        "workers": {
            "by_state": {state: count for state, count in workers["summary"].items() if state != "total"},
            "min": endpoint["workers"]["min"],
            "max": endpoint["workers"]["max"],
            "list": workers["workers"],
        },
        "jobs": _jobs(api, endpoint),
        "errors": [f"{item['id']}: {last_error(api, endpoint['id'], item['id'])}" for item in unhealthy(workers)],
        "cost_usd": _cost(api, endpoint),
    }


def base_url(endpoint: Json) -> str | None:
    """Return the OpenAI base URL of an endpoint, from the addresses that the API gave; None if it gave none."""
    urls = endpoint.get("requestUrls") or {}
    if urls.get("base"):
        return str(urls["base"]).rstrip("/") + "/v1"
    if urls.get("run"):
        return str(urls["run"]).removesuffix("/run") + "/openai/v1"
    return None


def unhealthy(workers: Json) -> list[Json]:
    """Return the workers that fail their health checks."""
    return [worker for worker in workers["workers"] if worker["status"] == "UNHEALTHY"]


def last_error(api: RunpodApi, endpoint_id: str, worker_id: str) -> str:
    """Return the last line of a worker's log that tells of trouble."""
    try:
        log = api.worker_log(endpoint_id, worker_id, tail=LOG_LINES, idle=LOG_IDLE_S)
        lines = [str(event.get("line", "")).strip() for event in islice(log, LOG_LINES)]
    except ServingError:
        return "its log cannot be read"
    return next((line for line in reversed(lines) if _TROUBLE.search(line)), lines[-1] if lines else "its log is empty")


def _jobs(api: RunpodApi, endpoint: Json) -> Json | None:
    url = (endpoint.get("requestUrls") or {}).get("health")
    answer = api.call_url("GET", url) if url and endpoint.get("type") != "LOAD_BALANCER" else None
    jobs = (answer or {}).get("jobs")
    return jobs if isinstance(jobs, dict) else None


def _cost(api: RunpodApi, endpoint: Json) -> float | None:
    try:
        return api.cost(endpoint["id"], endpoint["createdAt"])
    except (ServingError, KeyError):
        return None
