"""What a job asks for: its input read into one request for vLLM, or refused."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from typing import Any

import msgspec

from worker.job_error import JobError

BODY_LIMIT = 20_000_000  # bytes; the platform's own limit for /runsync, its highest

# The only routes that a job can reach, by exact comparison: so no other host, no `..`, no encoded dot, no query.
ROUTES = {
    "/v1/chat/completions": "POST",
    "/v1/completions": "POST",
    "/v1/responses": "POST",
    "/v1/messages": "POST",
    "/v1/messages/count_tokens": "POST",
    "/v1/embeddings": "POST",
    "/v1/models": "GET",
    "/tokenize": "POST",
    "/detokenize": "POST",
    "/health": "GET",
    "/version": "GET",
    "/metrics": "GET",
}
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@dataclass(frozen=True)
class Request:
    """One request for vLLM. `body` is JSON; None for a GET."""

    method: str
    route: str
    body: bytes | None
    stream: bool  # whether an error should come as an event


def read_job(job_input: object, model: str) -> Request:
    """Read a job's `input`: one of

    * `{"openai_route": "/v1/...", "openai_input": {...}}`, which the platform makes of a call to its /openai path; the
      route may be left out for a chat request;
    * `{"route": "/v1/...", "body": {...}, "method": "POST"}`;
    * `{"messages": [...]}` or `{"prompt": "..."}` with `sampling_params` and `stream`, as RunPod's own vLLM worker.

    A key whose value is null is not there; of several of these, the first that says anything counts. `model` is filled
    in where a body names none. What else is in a body is vLLM's to judge. Raises JobError.
    """
    if not isinstance(job_input, dict):
        raise JobError(400, f"The job's input must be an object, not {_shown(job_input)}.")
    given = {key: value for key, value in job_input.items() if value is not None}
    if given.get("openai_route") or given.get("openai_input"):
        return _request(given.get("openai_route") or CHAT, given.get("openai_input"), None, model)
    if given.get("route"):
        return _request(given["route"], given.get("body"), given.get("method") or None, model)
    if "messages" in given or "prompt" in given:
        return _shorthand(given, model)
    found = f"it has {_shown(list(given))}" if given else "it is empty"
    raise JobError(400, f"The job's input must have the key openai_input, route, messages or prompt; {found}.")


def _shorthand(given: dict[str, Any], model: str) -> Request:
    if "messages" in given:
        given.pop("prompt", None)
    sampling = given.pop("sampling_params", {})
    if not isinstance(sampling, dict):
        raise JobError(400, f"sampling_params must be an object, not {_shown(sampling)}.", param="sampling_params")
    body = {**sampling, **given, "stream": bool(given.get("stream"))}
    return _request(CHAT if "messages" in given else COMPLETIONS, body, None, model)


def _request(route: object, body: object, method: object, model: str) -> Request:
    served = ROUTES.get(route) if isinstance(route, str) else None
    if served is None or not isinstance(route, str):
        raise JobError(404, f"The route {_shown(route)} is not served; these are: {', '.join(ROUTES)}.", param="route")
    if method is not None and (not isinstance(method, str) or method.upper() != served):
        raise JobError(405, f"The route {route} takes {served}, not {_shown(method)}.", param="method")
    if served == "GET":
        return Request(served, route, None, stream=False)
    if body is None:
        body = {}
    if not isinstance(body, dict):
        raise JobError(400, f"The body of a request must be an object, not {_shown(body)}.", param="body")
    if body.get("model") in (None, ""):
        body = {**body, "model": model}
    try:
        raw = msgspec.json.encode(body)
    except (ValueError, TypeError, RecursionError) as error:  # half a surrogate pair, a thousand levels
        message = f"The body of the request cannot be sent as JSON: {_shown(str(error))}."
        raise JobError(400, message, param="body") from error
    if len(raw) > BODY_LIMIT:
        message = f"The body of the request has {len(raw):,} bytes; the most is {BODY_LIMIT:,}."
        raise JobError(413, message, param="body")
    return Request(served, route, raw, stream=bool(body.get("stream")))


_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 80
_short.maxlist, _short.maxlevel = 10, 2
_SHOWN = 80  # characters of a caller's text in a message


def _shown(value: object) -> str:
    """Describe a caller's value: names and short values as they are, anything long or deep by its beginning."""
    try:
        text = _short.repr(value) if isinstance(value, (str, int, float, list, type(None))) else type(value).__name__
    except ValueError:  # a number of thousands of digits
        text = type(value).__name__
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({type(value).__name__})"
