"""What a body says went wrong, in any of the shapes in which servers and gateways say it.

RunPod's gateway sends errors under HTTP 200, and its workers wrap them as JSON text: worker-vllm issues 57 and 186.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any

from client._wire.chunk import loads

JOB_STATES = frozenset({"IN_QUEUE", "IN_PROGRESS", "RUNNING", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"})

_STATUS_KEYS = ("status", "status_code", "statusCode", "http_status", "code")
_MESSAGE_KEYS = ("message", "error_message", "detail", "error", "msg", "title")
_NAMED = {
    "model_not_found": 404,
    "modelnotfounderror": 404,
    "not_found_error": 404,
    "notfounderror": 404,
    "invalid_request_error": 400,
    "badrequesterror": 400,
    "bad_request": 400,
    "context_length_exceeded": 400,
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
    "overloaded_error": 503,
    "service_unavailable": 503,
}
_STATUS_IN_TEXT = re.compile(r"(?i)\b(?:http(?:/[\d.]+)?|status(?: code)?|error code)[\s:=]+([45]\d\d)\b")


@dataclass(frozen=True)
class Problem:
    """Hold an error that a body spoke of: its text, its HTTP status if it named one, its code or type.

    `hinted` is a status that only the text spoke of ("HTTP 429"): worker-vllm's errors have it nowhere else.
    """

    message: str
    status: int | None = None
    kind: str = ""
    hinted: int | None = None


def find_problem(body: object, depth: int = 0) -> Problem | None:
    """Return the error in a decoded body, or None where it holds none."""
    if isinstance(body, list):
        return find_problem(body[0], depth + 1) if body and depth < 4 else None
    if not isinstance(body, dict) or depth > 4:
        return None
    error = body.get("error")
    if error:
        inner = _read(error, depth)
        return replace(inner, status=inner.status or _status(body))
    if body.get("object") == "error":
        return _read(body, depth)
    if body.get("choices"):
        return None
    if body.get("detail"):
        return _read(body, depth)
    if body.get("message") and (_status(body) is not None or str(body.get("type", "")).lower() in _NAMED):
        return _read(body, depth)
    if body.get("output"):
        return find_problem(body["output"], depth + 1)
    return None


def read_problem(body: object) -> Problem:
    """Return the error that `body` is known to be."""
    return find_problem(body) or _read(body, 0)


def job_state(body: object) -> str | None:
    """Return the state of a RunPod job, if that is what `body` is."""
    if isinstance(body, dict) and "choices" not in body and body.get("status") in JOB_STATES:
        return str(body["status"])
    return None


def _read(error: object, depth: int) -> Problem:
    if isinstance(error, str):
        inner = _json(error)
        if inner is not None and depth < 4:
            return find_problem(inner, depth + 1) or _read(inner, depth + 1)
        return Problem(error, hinted=_status_in(error))
    if not isinstance(error, dict):
        return Problem(json.dumps(error))
    kind = str(error.get("code") or "") if not _number(error.get("code")) else ""
    kind = kind or str(error.get("type") or error.get("error_type") or "")
    message: Any = next((error[key] for key in _MESSAGE_KEYS if error.get(key)), None)
    status = _status(error)
    if isinstance(message, str):
        inner = _json(message)
        if inner is not None and depth < 4:
            within = find_problem(inner, depth + 1) or _read(inner, depth + 1)
            return replace(within, status=status or within.status, kind=within.kind or kind)
    elif isinstance(message, dict) and depth < 4:
        within = _read(message, depth + 1)
        return replace(within, status=status or within.status, kind=within.kind or kind)
    text = message if isinstance(message, str) else json.dumps(message or error)
    names = (error.get("code"), error.get("type"))
    status = status or next((_NAMED[str(name).lower()] for name in names if str(name).lower() in _NAMED), None)
    return Problem(text, status, kind, _status_in(text))


def _status(body: dict[str, Any]) -> int | None:
    return next((number for key in _STATUS_KEYS if (number := _number(body.get(key)))), None)


def _number(value: object) -> int | None:
    if isinstance(value, str) and value.isdecimal() and len(value) == 3:
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599 else None


def _status_in(text: str) -> int | None:
    found = _STATUS_IN_TEXT.search(text)
    return int(found[1]) if found else None


def _json(text: str) -> object:
    """Return the object or the list that `text` is the JSON of, or None."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        body: object = loads(text)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, (dict, list)) and body else None
