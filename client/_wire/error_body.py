"""What a body says went wrong, in any of the shapes in which servers and gateways say it.

RunPod's gateway sends errors under HTTP 200, and its workers wrap them as JSON text: worker-vllm issues 57 and 186.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from client._wire.chunk import clean, dumps, loads

JOB_STATES = frozenset({"IN_QUEUE", "IN_PROGRESS", "RUNNING", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"})

_DEPTH = 4  # errors within errors
_TEXT_LIMIT = 20_000  # characters of a message that are looked at
_STATUS_KEYS = (
    "status",
    "status_code",
    "statusCode",
    "http_status",
    "http_status_code",
    "code",
    "error_code",
    "errorCode",
)
_MESSAGE_KEYS = (
    "message",
    "error_message",
    "errorMessage",
    "error_msg",
    "detail",
    "error",
    "msg",
    "status_msg",
    "faultstring",
    "description",
    "title",
    "reason",
)
# The last three are an error's only where something else says that it is one.
_TELLING = _MESSAGE_KEYS[:-3]
_WRAPPERS = ("errors", "exception", "fault")
# A wrapper's own code says whether it holds an error.
_CODED = (("base_resp", "status_code"), ("header", "code"))
_INNER = ("output", "data", "result", "response")
_FINE = ("0", "200", "ok", "success")
_FAILED = ("error", "failed", "failure")
_HARMLESS = (
    *("ping", "keepalive", "keep-alive", "keep_alive", "heartbeat", "info", "status", "progress"),
    *("processing", "queued", "pending", "loading", "running", "started", "starting", *_FINE),
)
_NAMED = {
    "model_not_found": 404,
    "modelnotfounderror": 404,
    "not_found_error": 404,
    "notfounderror": 404,
    "invalid_request_error": 400,
    "badrequesterror": 400,
    "bad_request": 400,
    "context_length_exceeded": 400,
    "exceed_context_size_error": 400,
    "invalid_api_key": 401,
    "authentication_error": 401,
    "authenticationerror": 401,
    "unauthorized": 401,
    "permission_error": 403,
    "permissiondeniederror": 403,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "ratelimiterror": 429,
    "insufficient_quota": 429,
    "server_error": 500,
    "api_error": 500,
    "internal_error": 500,
    "internalservererror": 500,
    "internal_server_error": 500,
    "overloaded_error": 503,
    "service_unavailable": 503,
    "unavailable_error": 503,
}
_STATUS_IN_TEXT = re.compile(r"(?i)\b(?:http(?:/[\d.]+)?|status(?: code)?|error code)[\s:=]{1,9}([45]\d\d)\b")


@dataclass(frozen=True)
class ErrorBody:
    """An error that a body spoke of: its text, its HTTP status if it named one, its code or type.

    `hinted` is a status that only the text spoke of ("HTTP 429"): worker-vllm's errors have it nowhere else.
    `parameter` is the request's parameter that is to blame, where the server named one.
    """

    message: str
    status: int | None = None
    kind: str = ""
    hinted: int | None = None
    parameter: str = ""


def find_error(body: object, depth: int = 0) -> ErrorBody | None:
    """Return the error in a decoded body, or None where it holds none."""
    if isinstance(body, list):
        return find_error(body[0], depth + 1) if body and depth < _DEPTH else None
    if not isinstance(body, dict) or depth > _DEPTH:
        return None
    error = body.get("error")
    if isinstance(error, (bool, int, float)) and error:
        return replace(_read(body, depth), status=_status(body) or _number(error))
    if error:
        inner = _read(error, depth)
        return replace(inner, status=inner.status or _status(body))
    if body.get("object") == "error":
        return _read(body, depth)
    if body.get("choices"):
        return None
    if body.get("detail"):
        return _read(body, depth)
    wrapped = next((body[name] for name in _WRAPPERS if body.get(name)), None)
    wrapped = wrapped or next((body[name] for name, code in _CODED if _is_coded(body.get(name), code)), None)
    if wrapped:
        inner = _read(wrapped, depth)
        return replace(inner, status=inner.status or _status(body))
    if _blames(body):
        return _read(body, depth)
    return next((found for name in _INNER if (found := find_error(body.get(name), depth + 1))), None)


def read_error(body: object) -> ErrorBody:
    """Return the error that `body` is known to be."""
    return find_error(body) or _read(body, 0)


def job_state(body: object) -> str | None:
    """Return the state of a RunPod job, if that is what `body` is."""
    if not isinstance(body, dict) or "choices" in body:
        return None
    state = body.get("status")
    return state if isinstance(state, str) and state in JOB_STATES else None


def _blames(body: dict[str, Any]) -> bool:
    """Return whether a body without choices and without `error` tells of one.

    A message alone does, unless what stands beside it says that it is no more than news.
    """
    if _status(body) is not None or body.get("success") is False or body.get("ok") is False:
        return True
    words = [str(body[key]).lower()[:40] for key in ("type", "status", "event", "code") if body.get(key) is not None]
    if any(word in _FAILED for word in words):
        return True
    told = any(isinstance(body.get(key), str) and body[key] for key in _TELLING)
    return told and body.get("success") is not True and not any(word in _HARMLESS for word in words)


def _is_coded(wrapper: object, code: str) -> bool:
    return isinstance(wrapper, dict) and str(wrapper.get(code) or "0")[:40].lower() not in _FINE


def _read(error: object, depth: int) -> ErrorBody:
    if isinstance(error, str):
        return _read_text(error, depth)
    if isinstance(error, list) and error and depth < _DEPTH:
        return _read(error[0], depth + 1)
    if not isinstance(error, dict):
        return ErrorBody(_shown(error))
    code = error.get("code")
    kind = _word(code) if not _number(code) else ""
    kind = kind or _word(error.get("type")) or _word(error.get("error_type"))
    message = next((error[key] for key in _MESSAGE_KEYS if error.get(key)), None)
    status = _status(error)
    parameter = _word(error.get("param"))
    if depth < _DEPTH:
        inner = _json(message) if isinstance(message, str) else message if isinstance(message, dict) else None
        if inner is not None:
            within = find_error(inner, depth + 1) or _read(inner, depth + 1)
            return replace(
                within,
                status=status or within.status,
                kind=within.kind or kind,
                parameter=within.parameter or parameter,
            )
    text = clean(message[:_TEXT_LIMIT]) if isinstance(message, str) else _shown(message or error)
    names = (_word(code).lower(), _word(error.get("type")).lower())
    status = status or next((_NAMED[name] for name in names if name in _NAMED), None)
    return ErrorBody(text, status, kind, _status_in(text), parameter)


def _read_text(text: str, depth: int) -> ErrorBody:
    inner = _json(text)
    if inner is not None and depth < _DEPTH:
        return find_error(inner, depth + 1) or _read(inner, depth + 1)
    text = clean(text[:_TEXT_LIMIT])
    return ErrorBody(text, hinted=_status_in(text))


def _status(body: dict[str, Any]) -> int | None:
    return next((number for key in _STATUS_KEYS if (number := _number(body.get(key)))), None)


def _number(value: object) -> int | None:
    if isinstance(value, str) and value.isdecimal() and len(value) == 3:
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599 else None


def _word(value: object) -> str:
    return clean(value[:200]) if isinstance(value, str) else str(value) if isinstance(value, (int, float)) else ""


def _shown(value: object) -> str:
    return clean(dumps(value)[:_TEXT_LIMIT])


def _status_in(text: str) -> int | None:
    found = _STATUS_IN_TEXT.search(text)
    return int(found[1]) if found else None


def _json(text: str) -> object:
    """Return the object or the list that `text` is the JSON of, or None."""
    if not text[:100].lstrip().startswith(("{", "[")):
        return None
    try:
        body: object = loads(text)
    except ValueError:
        return None
    return body if isinstance(body, (dict, list)) and body else None
