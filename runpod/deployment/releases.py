"""Back to the release before: the API keeps what each release changed, and this reads it backwards.

A release's `diff` names fields as the API does (`workers.max`) or as the platform does inside (`template.imageName`,
`gpuCount`): `fields` knows both. Source: `Release` and `ReleaseDiffEntry` in the API's description.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deployment import fields
from deployment.errors import DeployError
from deployment.graphql_api import same_models

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deployment.answers import DiffEntry, Release

Json = dict[str, Any]

MODELS = "modelReferences"


def last_change(releases: Sequence[Release]) -> list[DiffEntry] | None:
    """Return what the last deploy changed (`releases` come newest first), or None if nothing came before it.

    The cached model is set by a call of its own, and so makes a release of its own: the two are one deploy.
    """
    changed = [entries for entries in map(_entries, releases) if entries]
    created = bool(releases) and all(entry.old in (None, "", []) for entry in _entries(releases[-1]))
    if created and releases[-1].diff:
        changed.pop()  # the first release of all may list what it began with
    if not changed:
        return None
    newest, *older = changed
    if all(fields.path_of(entry.field) == MODELS for entry in newest):
        return [*newest, *older[0]] if older else None if created else newest
    return newest


def undo(entries: Sequence[DiffEntry], live: Json) -> Json:
    """Return the endpoint as it was before: `live` (as `Endpoint.body` says it) with these changes taken back.

    The cached model is under MODELS, if it changed. Raises DeployError if a change cannot be set through the API: half
    a step back would be a third state, which nobody asked for.
    """
    before: Json = {name: dict(value) if isinstance(value, dict) else value for name, value in live.items()}
    for entry in entries:
        path = fields.path_of(entry.field)
        top, _, inner = path.partition(".")
        known = path in fields.BY_PATH and not fields.BY_PATH[path].fixed
        if not known and not (top in ("env", "gpu", "workers", "scaling") and (top == "env" or not inner)):
            raise DeployError(
                f"The last release changed {entry.field!r}, which RunPod's API cannot set back: set it in RunPod's "
                "console."
            )
        value = _value(path, entry.old)
        if path == "gpu.pools":
            before["gpu"] = {**before.get("gpu", {}), **value}
        elif not inner:
            before[top] = value
        elif value is None:
            before.setdefault(top, {}).pop(inner, None)
        else:
            before[top] = {**(before.get(top) or {}), inner: value}
    return _tidy(before)


def _entries(release: Release) -> list[DiffEntry]:
    """Return what a release changed: RunPod's turning a model's branch into a commit is no change."""
    return [
        entry
        for entry in release.diff
        if fields.path_of(entry.field) != MODELS or not same_models(_words(entry.old), _words(entry.new))
    ]


def _value(path: str, old: Any) -> Any:
    """Turn an old value into what a request takes; the platform keeps lists as text and the environment as pairs.

    Raises DeployError for one that cannot be understood.
    """
    field = fields.BY_PATH.get(path)
    try:
        if path == "gpu.pools":
            words = _words(old)
            excluded = [word.removeprefix("-") for word in words if word.startswith("-")]
            chosen: Json = {"pools": [word for word in words if not word.startswith("-")]}
            return chosen | ({"excludedTypes": excluded} if excluded else {})
        if old is None:
            return fields.unset(path)
        if field is not None and field.is_list:
            return _words(old)
        if path == "env" and isinstance(old, list):
            return {str(pair["key"]): str(pair["value"]) for pair in old}
        if path in ("env", "gpu", "workers", "scaling"):
            return dict(old)
    except (TypeError, ValueError, LookupError, AttributeError):
        raise DeployError(
            f"The last release changed {path!r} from something that the kit does not understand: "
            "go back in RunPod's console."
        ) from None
    return old


def _words(value: Any) -> list[str]:
    if value is None:
        return []
    items = value.split(",") if isinstance(value, str) else list(value)
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
        try:
            number = int(number) if by_requests else float(number)
        except (TypeError, ValueError, OverflowError):
            raise DeployError(
                f"The last release had a scaler that the kit does not understand ({number!r}): "
                "go back in RunPod's console."
            ) from None
        body["scaling"] = {"type": scaling.get("type", "QUEUE_DELAY"), key: number}
    if by_requests and body.get("type") != "LOAD_BALANCER":
        body["workers"] = {name: value for name, value in body.get("workers", {}).items() if name != "idleTimeout"}
    return body
