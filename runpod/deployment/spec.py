"""The endpoint as it should be, as it is, and the difference between the two."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deployment.masking import MASK, looks_secret, shown
from serving.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deployment.pools import Offer
    from deployment.settings import DeploySettings, Wanted

Json = dict[str, Any]

TYPES = {"queue": "QUEUE", "load-balancer": "LOAD_BALANCER"}
FLASHBOOT = {"on": "FLASHBOOT", "off": "OFF", "priority": "PRIORITY_FLASHBOOT"}
# The platform's load balancer talks to these ports of a worker.
HTTP_PORT, HEALTH_PORT = 8000, 8001
MOST_AT_ONCE = 30  # WORKER_MAX_CONCURRENCY's default
QUEUE_DELAY_S = 4.0
ROOM_GB = 20  # image layers' writable part, compile cache, logs
CUDA = "13.0"  # what the pinned vLLM image is built for; an older host could not run it
REFERENCE = "{{{{ RUNPOD_SECRET_{} }}}}"

# What the API reports for a field that was never set; an answer may leave such fields out.
_UNSET: Json = {
    "env": {}, "ports": [], "registry": None, "dataCenterIds": [], "networkVolumes": [],
    "disk": None, "image": None, "flashboot": "OFF", "timeout": None, "type": "QUEUE",
}  # fmt: skip


def worker_env(wanted: Wanted, offer: Offer) -> dict[str, str]:
    """Return the worker's environment: what was set, and what must be settled so that every worker is the same.

    The names are sent out even when they were not set, so that server and clients cannot disagree. So is the
    precision, since a larger card of the pool would otherwise plan, and answer with, another checkpoint.
    """
    deploy, serve = wanted.deploy, wanted.serve
    env = dict(wanted.travelling)
    env["SERVE_MODEL"] = wanted.model
    env["SERVE_SERVED_MODEL_NAME"] = wanted.served_name
    if serve.precision == "auto" and len(offer.model.checkpoints) > 1:
        env["SERVE_PRECISION"] = str(offer.plan.precision)
    env["WORKER_MODE"] = deploy.mode
    env["RUNPOD_INIT_TIMEOUT"] = str(deploy.init_timeout)
    if deploy.mode == "load-balancer":
        env |= {"PORT": str(HTTP_PORT), "PORT_HEALTH": str(HEALTH_PORT), "HEALTH_CHECK_PATH": "/ping"}
        # The platform has checked the caller's key, which arrives in the one header that a key of our own would need.
        env.pop("SERVE_API_KEY", None)
    if deploy.hf_secret is not None:
        env["HF_TOKEN"] = REFERENCE.format(deploy.hf_secret)
    elif serve.hf_token is not None:
        env["HF_TOKEN"] = serve.hf_token.get_secret_value()
    return dict(sorted(env.items()))


def desired(wanted: Wanted, offers: Sequence[Offer]) -> Json:
    """Return the body that creates the endpoint: every field whose default is a trap is in it.

    Left out are those that the API refuses in combination: the idle timeout of a queue that scales by requests.
    """
    deploy = wanted.deploy
    if deploy.image is None:
        raise ConfigurationError(
            "DEPLOY_IMAGE is not set: it must be the worker's image, as `make push` pushed it, with a tag or digest."
        )
    workers = {"min": deploy.workers_min, "max": deploy.workers_max}
    if deploy.mode == "load-balancer" or not deploy.scales_by_requests:
        workers["idleTimeout"] = deploy.idle_timeout
    body: Json = {
        "name": deploy.name,
        "type": TYPES[deploy.mode],
        "image": deploy.image,
        "disk": disk_gb(deploy, offers),
        "env": worker_env(wanted, offers[0]),
        "gpu": {"pools": [offer.pool.id for offer in offers], "count": deploy.gpu_count, "minCudaVersion": CUDA},
        "workers": workers,
        "scaling": scaling(deploy, offers),
        "flashboot": FLASHBOOT[deploy.flashboot],
        "timeout": deploy.execution_timeout * 1000,
        "dataCenterIds": list(deploy.data_centers),
        "networkVolumes": list(deploy.network_volume),
    }
    if deploy.mode == "load-balancer":
        body["ports"] = [f"{HTTP_PORT}/http", f"{HEALTH_PORT}/http"]
    if deploy.registry is not None:
        body["registry"] = deploy.registry
    return body


def scaling(deploy: DeploySettings, offers: Sequence[Offer]) -> Json:
    """Return when to add workers."""
    if not deploy.scales_by_requests:
        delay = QUEUE_DELAY_S if deploy.scaler_value is None else deploy.scaler_value
        return {"type": "QUEUE_DELAY", "queueDelay": delay}
    at_once = min(MOST_AT_ONCE, *(int(offer.plan.max_num_seqs or MOST_AT_ONCE) for offer in offers))
    return {
        "type": "REQUEST_COUNT",
        "requestCount": at_once if deploy.scaler_value is None else int(deploy.scaler_value),
    }


def disk_gb(deploy: DeploySettings, offers: Sequence[Offer]) -> int:
    """Return the container disk in GB: room to work, and for weights that do not lie elsewhere.

    For the model's largest checkpoint, whichever is planned, so that a changed wish does not change the disk too.
    """
    if deploy.disk_gb != "auto":
        return deploy.disk_gb
    elsewhere = deploy.cached_model or bool(deploy.network_volume)
    weights = 0.0 if elsewhere else max(item.weight_bytes for item in offers[0].model.checkpoints) / 1e9 * 1.2
    return math.ceil((weights + ROOM_GB) / 10) * 10


@dataclass(frozen=True)
class Change:
    """Hold one difference, ready to be shown: secrets are masked in `old` and `new`."""

    field: str
    old: str
    new: str


def compare(wish: Json, live: Json | None) -> list[Change]:
    """Return what differs, field by field, the environment name by name. `live` is None where there is nothing yet."""
    changes: list[Change] = []
    for field, new in _leaves(wish).items():
        old = _leaves(live).get(field, _UNSET.get(field)) if live is not None else None
        if live is not None and _same(field, old, new):
            continue
        if field == "env":
            changes += _env_changes(old or {}, new)
        else:
            changes.append(Change(field, "" if live is None else _text(old, field), _text(new, field)))
    if live is not None:
        changes += _left_over(wish, live)
    return changes


def patch(wish: Json, live: Json) -> Json:
    """Return the body that makes `live` what `wish` says: each changed field, whole, and no other.

    Whole, since a PATCH replaces `env`, `scaling` and the selection of pools anyway (UpdateEndpointRequest).
    Raises ConfigurationError for the one thing that cannot be changed.
    """
    changed = {change.field.split(".")[0] for change in compare(wish, live)}
    if "type" in changed:
        raise ConfigurationError(
            f"DEPLOY_MODE cannot change on a live endpoint ({live.get('type')} to {wish['type']}): "
            "run `make undeploy` first, or set another DEPLOY_NAME."
        )
    return {field: wish.get(field, _UNSET.get(field)) for field in sorted(changed)}


def _leaves(body: Json) -> Json:
    """Return the fields that are compared one by one, by dotted path; lists and the environment stay whole."""
    flat: Json = {}
    for field, value in body.items():
        if isinstance(value, dict) and field != "env":
            flat |= {f"{field}.{name}": item for name, item in value.items()}
        else:
            flat[field] = value
    return flat


def _same(field: str, old: object, new: object) -> bool:
    if field == "name":
        return str(old).removesuffix("-fb").strip() == new or old == new
    if isinstance(old, list) and isinstance(new, list):
        return sorted(map(str, old)) == sorted(map(str, new))
    return old == new


def _left_over(wish: Json, live: Json) -> list[Change]:
    """Return what the live endpoint has and the wish leaves out on purpose, where it would matter."""
    gpu = live.get("gpu") or {}
    changes = []
    if gpu.get("excludedTypes") and "excludedTypes" not in wish["gpu"]:
        changes.append(Change("gpu.excludedTypes", _text(gpu["excludedTypes"]), "none"))
    changes += [
        Change(field, _text(live[field]), "none")
        for field in ("registry", "ports")
        if live.get(field) and field not in wish
    ]
    return changes


def _env_changes(old: dict[str, str], new: dict[str, str]) -> list[Change]:
    changes = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        texts = ["" if value is None else shown(name, value) for value in (before, after)]
        if texts[0] == texts[1] == MASK:
            texts[1] = f"{MASK} (another value)"
        changes.append(Change(f"env.{name}", texts[0], texts[1] or "removed"))
    return changes


def _text(value: object, field: str = "") -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or ("any" if field == "dataCenterIds" else "none")
    return f"{value:g}" if isinstance(value, float) else str(value)


def masked(body: Json) -> Json:
    """Return a body as it may be shown or written as JSON."""
    env = {name: MASK if looks_secret(name, value) else shown(name, value) for name, value in body["env"].items()}
    return {**body, "env": env}
