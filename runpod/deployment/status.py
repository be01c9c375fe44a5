"""One picture of an endpoint, put together from the API, the endpoint's own addresses and the billing."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Any

from deployment.answers import Health
from serving.errors import ServingError

if TYPE_CHECKING:
    from deployment.answers import Endpoint
    from deployment.rest_api import RunpodApi

Json = dict[str, Any]

IDLE_MAX = 2  # what RunPod leaves an endpoint that nobody uses
LOG_LINES = 50
LOG_IDLE_S = 2.0
_TROUBLE = re.compile(r"error|exception|traceback|fail|unhealthy|killed|out of memory", re.IGNORECASE)


def read(api: RunpodApi, endpoint: Endpoint, workers_max: int) -> Json:
    """Return the endpoint's state. What does not answer in a few seconds is None, not a failure."""
    workers = api.workers(endpoint.id)
    releases = api.releases(endpoint.id)
    newest = releases.releases[0] if releases.releases else None
    version = releases.endpoint_version
    states = [worker.status.lower() for worker in workers.workers]
    return {
        "id": endpoint.id,
        "name": endpoint.name,
        "type": endpoint.type,
        "base_url": endpoint.base_url,
        "image": endpoint.image,
        "gpu": f"{endpoint.gpu.count}x {' or '.join(endpoint.gpu.pools)}",
        "release": {
            "version": newest.version if version is None and newest else version,
            "created_at": newest.created_at if newest else None,
            "rollout": releases.rollout.model_dump(by_alias=True) if releases.rollout.in_progress else None,
        },
        "workers": {
            "by_state": {state: states.count(state) for state in dict.fromkeys(states)},
            "min": endpoint.workers.min,
            "max": endpoint.workers.max,
            "list": [worker.model_dump(by_alias=True) for worker in workers.workers],
        },
        "jobs": _jobs(api, endpoint),
        "errors": [
            f"{item.id}: {last_error(api, endpoint.id, item.id) or 'its log says nothing'}"
            for item in workers.unhealthy
        ],
        "cost_usd": _cost(api, endpoint),
        "hint": scaled_down(endpoint, workers_max),
    }


def scaled_down(endpoint: Endpoint, workers_max: int) -> str | None:
    """Return what to do about an endpoint that RunPod itself has scaled down, None if it has not."""
    now = endpoint.workers.max
    if now > IDLE_MAX or now >= workers_max:
        return None
    return (
        f"Endpoint {endpoint.name} may have {now or 'no'} workers (max {now}); DEPLOY_WORKERS_MAX is {workers_max}. "
        "RunPod lowers it to 2 after 3 days without a request, to 0 after 7 days, and where workers fail again and "
        f"again: `make deploy` sets it to {workers_max}."
    )


def last_error(api: RunpodApi, endpoint_id: str, worker_id: str) -> str:
    """Return the last line of a worker's log that tells of trouble; empty if it tells nothing, or cannot be read."""
    try:
        log = api.worker_log(endpoint_id, worker_id, tail=LOG_LINES, idle=LOG_IDLE_S)
        lines = [event.line.strip() for event in islice(log, LOG_LINES)]
    except ServingError:
        return ""
    return next((line for line in reversed(lines) if _TROUBLE.search(line)), lines[-1] if lines else "")


def _jobs(api: RunpodApi, endpoint: Endpoint) -> dict[str, int] | None:
    url = endpoint.request_urls.health
    answer = api.call_url(Health, "GET", url) if url and endpoint.type != "LOAD_BALANCER" else None
    return answer.jobs if answer else None


def _cost(api: RunpodApi, endpoint: Endpoint) -> float | None:
    try:
        return api.cost(endpoint.id, endpoint.created_at) if endpoint.created_at else None
    except ServingError:
        return None
