"""Back to the release before: the API keeps what each release changed, and this reads it backwards.

A release's `diff` names fields as the API does (`workers.max`) or as the platform does inside (`template.imageName`,
`gpuCount`): both are read. Source: `Release` and `ReleaseDiffEntry` in the API's description.
"""

from __future__ import annotations

from typing import Any

from deployment.errors import DeployError

Json = dict[str, Any]

_INNER_NAMES = {
    "imageName": "image",
    "containerDiskInGb": "disk",
    "dockerArgs": "args",
    "containerRegistryAuthId": "registry",
    "gpuCount": "gpu.count",
    "gpuIds": "gpu.pools",
    "minCudaVersion": "gpu.minCudaVersion",
    "allowedCudaVersions": "gpu.allowedCudaVersions",
    "workersMin": "workers.min",
    "workersMax": "workers.max",
    "idleTimeout": "workers.idleTimeout",
    "locations": "dataCenterIds",
    "networkVolumeIds": "networkVolumes",
    "networkVolumeId": "networkVolumes",
    "executionTimeoutMs": "timeout",
    "flashBootType": "flashboot",
    "scalerType": "scaling.type",
    "scalerValue": "scaling.value",
}
_LISTS = frozenset({"dataCenterIds", "networkVolumes", "ports", "gpu.allowedCudaVersions"})
_WHOLE = frozenset(
    {"image", "disk", "args", "env", "ports", "registry", "gpu", "workers", "scaling", "dataCenterIds"}
    | {"networkVolumes", "timeout", "flashboot", "name"}
)
_NESTED = frozenset({"gpu", "workers", "scaling"})
# What to send for a field that the newer release added.
_EMPTY: Json = {
    "env": {}, "args": "", "ports": [], "registry": None, "dataCenterIds": [], "networkVolumes": [],
    "flashboot": "OFF", "gpu.allowedCudaVersions": [], "gpu.minCudaVersion": "", "gpu.excludedTypes": [],
}  # fmt: skip


def last_change(releases: list[Json]) -> Json | None:
    """Return the newest release that changed something (`releases` come newest first), or None."""
    changed = [release for release in releases if release["diff"]]
    # The first release of all has nothing before it, even where its diff lists what it began with.
    if len(releases) == 1 and changed and all(entry["old"] is None for entry in changed[0]["diff"]):
        return None
    return changed[0] if changed else None


def undo(release: Json, live: Json) -> Json:
    """Return the endpoint as it was before `release`: `live` with that release's changes taken back.

    Raises DeployError if the release changed something that cannot be set through the API: half a step back would be
    a third state, which nobody asked for.
    """
    before: Json = {field: live[field] for field in ("type", *sorted(_WHOLE)) if field in live}
    for field in _NESTED & before.keys():
        before[field] = dict(before[field] or {})
    for entry in release["diff"]:
        path = _path(entry["field"])
        field, _, inner = path.partition(".")
        if field not in _WHOLE or (inner and field not in {*_NESTED, "env"}):
            raise DeployError(
                f"The last release changed {entry['field']!r}, which RunPod's API cannot set back: "
                "set it in RunPod's console."
            )
        value = _value(path, entry["old"])
        if path == "gpu.pools":
            before["gpu"] |= value
        elif not inner:
            before[field] = value
        elif value is None:
            before.setdefault(field, {}).pop(inner, None)
        else:
            before[field] = {**(before.get(field) or {}), inner: value}
    return _tidy(before)


def _path(name: str) -> str:
    name = name.removeprefix("template.").removeprefix("endpoint.")
    head, dot, rest = name.partition(".")
    return _INNER_NAMES.get(head, head) + dot + rest


def _value(path: str, old: Any) -> Any:
    """Turn an old value into what a request takes; the platform keeps lists as text and the environment as pairs."""
    if path == "gpu.pools":
        words = _words(old)
        excluded = [word.removeprefix("-") for word in words if word.startswith("-")]
        chosen: Json = {"pools": [word for word in words if not word.startswith("-")]}
        return chosen | ({"excludedTypes": excluded} if excluded else {})
    if old is None:
        return _EMPTY.get(path)
    if path in _LISTS:
        return _words(old)
    if path == "env" and isinstance(old, list):
        return {pair["key"]: pair["value"] for pair in old}
    return old


def _words(value: Any) -> list[str]:
    if value is None:
        return []
    items = value.split(",") if isinstance(value, str) else value
    names = (item.get("networkVolumeId") if isinstance(item, dict) else item for item in items)
    return [str(name).strip() for name in names if str(name).strip()]


def _tidy(body: Json) -> Json:
    """Put a scaler that came in parts together, and leave out what the API refuses beside it."""
    scaling = dict(body.get("scaling") or {})
    number = scaling.pop("value", None)
    by_requests = scaling.get("type") == "REQUEST_COUNT"
    key, other = ("requestCount", "queueDelay") if by_requests else ("queueDelay", "requestCount")
    if number is None:
        number = scaling.get(key, scaling.get(other))
    if scaling:
        body["scaling"] = {"type": scaling.get("type", "QUEUE_DELAY"), key: int(number) if by_requests else number}
    if by_requests and body.get("type") != "LOAD_BALANCER":
        body.get("workers", {}).pop("idleTimeout", None)
    return body
