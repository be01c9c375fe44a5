"""An endpoint's fields, one row each: whoever adds a field adds a row here, and says in `spec.desired` what it is.

A field is named by its path in the REST API (`workers.max`). RunPod's releases name some by what they are called inside
(`template.imageName`); a complaint of the API is about a field, and what a user can change is a setting.
Source: EndpointConfig, Release and ReleaseDiffEntry in the API's description.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Field:
    """One field of an endpoint.

    `setting` is the variable that decides it, `inner` are the names it has inside RunPod. `unset` is what leaving it
    out means: what an answer without it says, and what a request sends to clear it. A `fixed` one cannot be changed.
    """

    path: str
    setting: str | None = None
    inner: tuple[str, ...] = ()
    unset: Any = None
    fixed: bool = False

    @property
    def top(self) -> str:
        """Return the field of the request's body that this one is in."""
        return self.path.partition(".")[0]

    @property
    def is_list(self) -> bool:
        """Return whether it is a list, in which the order says nothing."""
        return isinstance(self.unset, list)


FIELDS = (
    Field("name", "DEPLOY_NAME"),
    Field("type", "DEPLOY_MODE", unset="QUEUE", fixed=True),
    Field("image", "DEPLOY_IMAGE", ("imageName",)),
    Field("disk", "DEPLOY_DISK_GB", ("containerDiskInGb",)),
    Field("args", inner=("dockerArgs",), unset=""),
    Field("env", unset={}),
    Field("ports", unset=[]),
    Field("registry", "DEPLOY_REGISTRY", ("containerRegistryAuthId",)),
    Field("gpu.pools", "DEPLOY_GPU_POOLS", ("gpuIds",), unset=[]),
    Field("gpu.excludedTypes", unset=[]),
    Field("gpu.count", "DEPLOY_GPU_COUNT", ("gpuCount",), unset=1),
    Field("gpu.minCudaVersion", inner=("minCudaVersion",), unset=""),
    Field("gpu.allowedCudaVersions", inner=("allowedCudaVersions",), unset=[]),
    Field("workers.min", "DEPLOY_WORKERS_MIN", ("workersMin",)),
    Field("workers.max", "DEPLOY_WORKERS_MAX", ("workersMax",)),
    Field("workers.idleTimeout", "DEPLOY_IDLE_TIMEOUT", ("idleTimeout",)),
    Field("scaling.type", "DEPLOY_SCALER", ("scalerType",)),
    Field("scaling.queueDelay", "DEPLOY_SCALER_VALUE"),
    Field("scaling.requestCount", "DEPLOY_SCALER_VALUE"),
    Field("scaling.value", "DEPLOY_SCALER_VALUE", ("scalerValue",)),  # one of the two above, by the type
    Field("dataCenterIds", "DEPLOY_DATA_CENTERS", ("locations",), unset=[]),
    Field("networkVolumes", "DEPLOY_NETWORK_VOLUME", ("networkVolumeIds", "networkVolumeId"), unset=[]),
    Field("timeout", "DEPLOY_EXECUTION_TIMEOUT", ("executionTimeoutMs",)),
    Field("flashboot", "DEPLOY_FLASHBOOT", ("flashBootType",), unset="OFF"),
    # Only the GraphQL API has it.
    Field("modelReferences", "DEPLOY_CACHED_MODEL", unset=[]),
)
BY_PATH = {field.path: field for field in FIELDS}
TOPS = frozenset(field.top for field in FIELDS)
_BY_INNER = {name: field for field in FIELDS for name in field.inner}


def unset(path: str) -> Any:
    """Return what leaving out a field means, by its path; None where nothing is known."""
    field = BY_PATH.get(path)
    value = field.unset if field else None
    return value.copy() if isinstance(value, dict | list) else value


def leaves(body: Json) -> Json:
    """Return the fields of a body by their paths; lists and the environment stay whole."""
    flat: Json = {}
    for name, value in body.items():
        if isinstance(value, dict) and name not in BY_PATH:
            flat |= {f"{name}.{inner}": item for inner, item in value.items()}
        else:
            flat[name] = value
    return flat


def path_of(name: str) -> str:
    """Return the path of a field as a release names it: by its path or its inner name, perhaps behind `template.`."""
    name = name.removeprefix("template.").removeprefix("endpoint.")
    head, dot, rest = name.partition(".")
    return (_BY_INNER[head].path if head in _BY_INNER else head) + dot + rest


def setting_for(complaint: str) -> str | None:
    """Return the setting behind the field that a complaint of the API is about, None if it names none."""
    dotted = re.sub(r"[/\[\]]+", ".", complaint)  # a field may come as gpu.pools, /gpu/pools or gpu[pools]
    names = [(name, field.setting) for field in FIELDS for name in _spoken(field.path) if field.setting]
    names.sort(key=lambda item: -len(item[0]))  # the longer path first
    return next((setting for name, setting in names if re.search(rf"\b{re.escape(name)}\b", dotted)), None)


def _spoken(path: str) -> tuple[str, ...]:
    """Return the ways to name a field in a complaint; a last part alone, where it can be nothing else."""
    head, _, last = path.partition(".")
    return (path, last) if last in ("pools", "idleTimeout", "queueDelay", "requestCount") else (path, head)
