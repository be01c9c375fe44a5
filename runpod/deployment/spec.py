"""The endpoint as it should be, as it is, and the difference between the two."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deployment import fields
from deployment.masking import MASK, shown
from serving.errors import ConfigurationError
from serving.settings import ENGINE_PREFIXES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deployment.pools import Offer
    from deployment.settings import DeployConfig, DeploySettings

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


def worker_env(config: DeployConfig, offer: Offer) -> dict[str, str]:
    """Return the worker's environment: what was set, and what must be settled so that every worker is the same.

    The names are sent out even when they were not set, so that server and clients cannot disagree. So is the
    precision, since a larger card of the pool would otherwise plan, and answer with, another checkpoint.
    """
    deploy, serve = config.deploy, config.serve
    env = dict(config.worker_variables)
    env["SERVE_MODEL"] = config.model
    env["SERVE_SERVED_MODEL_NAME"] = config.served_name
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


def console_env(stored: Mapping[str, str], env: Mapping[str, str]) -> dict[str, str]:
    """Return the engine's variables that are stored and not in `env`: somebody set them in RunPod's console."""
    return {name: value for name, value in stored.items() if name.startswith(ENGINE_PREFIXES) and name not in env}


def desired(config: DeployConfig, offers: Sequence[Offer], kept: Mapping[str, str] | None = None) -> Json:
    """Return the body that creates the endpoint: every field whose default is a trap is in it.

    Left out are those that the API refuses in combination: the idle timeout of a queue that scales by requests. `kept`
    are variables that stay as they are.
    """
    deploy = config.deploy
    if deploy.image is None:
        raise ConfigurationError(
            "DEPLOY_IMAGE is not set: it must be the worker's image, as `make push` pushed it, with a tag or digest."
        )
    workers = {"min": deploy.workers_min, "max": deploy.workers_max}
    if deploy.idle_applies:
        workers["idleTimeout"] = deploy.idle_timeout
    body: Json = {
        "name": deploy.name,
        "type": TYPES[deploy.mode],
        "image": deploy.image,
        "disk": disk_gb(deploy, offers),
        "env": dict(sorted({**(kept or {}), **worker_env(config, offers[0])}.items())),
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

    For the model's largest checkpoint, whichever is planned, so that a changed setting does not change the disk too.
    A network volume does not count as elsewhere: where the worker's user may not write to it, which nobody can tell
    from here, the weights go to the disk.
    """
    if deploy.disk_gb != "auto":
        return deploy.disk_gb
    weights = max(item.weight_bytes for item in offers[0].model.checkpoints) / 1e9 * 1.2
    return math.ceil(((0.0 if deploy.cached_model else weights) + ROOM_GB) / 10) * 10


@dataclass(frozen=True)
class Change:
    """One difference, ready to be shown: secrets are masked in `old` and `new`."""

    field: str
    old: str
    new: str


def compare(desired: Json, live: Json | None) -> list[Change]:
    """Return what differs, field by field, the environment name by name. `live` is None where there is nothing yet."""
    if live is None:
        return [change for path, new in fields.leaves(desired).items() for change in _created(path, new)]
    stored = fields.leaves(live)
    changes: list[Change] = []
    for path, new in fields.leaves(desired).items():
        old = stored.get(path, fields.unset(path))
        if _same(path, old, new):
            continue
        changes += _env_changes(old, new) if path == "env" else [Change(path, _text(old, path), _text(new, path))]
    # What the live endpoint has and `desired` leaves out on purpose, where it would matter.
    changes += [
        Change(path, _text(stored[path]), "none")
        for path in ("gpu.excludedTypes", "registry", "ports")
        if stored.get(path) and path not in fields.leaves(desired)
    ]
    return changes


def patch(desired: Json, live: Json) -> Json:
    """Return the body that makes `live` what `desired` says: each changed field, whole, and no other.

    Whole, since a PATCH replaces `env`, `scaling` and the selection of pools anyway (UpdateEndpointRequest).
    Raises ConfigurationError for the one thing that cannot be changed.
    """
    changed = {change.field.split(".")[0] for change in compare(desired, live)}
    if "type" in changed:
        raise ConfigurationError(
            f"DEPLOY_MODE cannot change on a live endpoint ({live.get('type')} to {desired['type']}): "
            "run `make undeploy` first, or set another DEPLOY_NAME."
        )
    return {name: desired.get(name, fields.unset(name)) for name in sorted(changed)}


def _created(path: str, new: Any) -> list[Change]:
    return _env_changes({}, new) if path == "env" else [Change(path, "", _text(new, path))]


def _same(path: str, old: object, new: object) -> bool:
    if path == "name":
        return str(old).removesuffix("-fb").strip() == new or old == new
    if isinstance(old, list) and isinstance(new, list):
        return sorted(map(str, old)) == sorted(map(str, new))
    return old == new


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


def _text(value: object, path: str = "") -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or ("any" if path == "dataCenterIds" else "none")
    return f"{value:g}" if isinstance(value, float) else str(value)
