"""What a job asks for: its input read into one request for vLLM, or refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from worker.job_error import JobError

BODY_LIMIT = 20_000_000  # bytes; the platform's own limit for /runsync, its highest
_SHOWN = 80  # characters of a caller's text in a message

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
}


@dataclass(frozen=True)
class Request:
    """Hold one request for vLLM. `body` is JSON; None for a GET."""

    method: str
    route: str
    body: bytes | None
    stream: bool  # whether an error should come as an event


def read_job(job_input: object, model: str) -> Request:
    """Read a job's `input`: one of

    * `{"openai_route": "/v1/...", "openai_input": {...}}`, which the platform makes of a call to its /openai path;
    * `{"route": "/v1/...", "body": {...}, "method": "POST"}`;
    * `{"messages": [...]}` or `{"prompt": "..."}` with `sampling_params` and `stream`, as RunPod's own vLLM worker.

    `model` is filled in where a body names none. What else is in a body is vLLM's to judge. Raises JobError.
    """
    if not isinstance(job_input, dict):
        raise JobError(400, f"The job's input must be an object, not {_shown(job_input)}.")
    if "openai_route" in job_input:
        return _request(job_input["openai_route"], job_input.get("openai_input"), None, model)
    if "route" in job_input:
        return _request(job_input["route"], job_input.get("body"), job_input.get("method"), model)
    if "messages" in job_input or "prompt" in job_input:
        return _shorthand(job_input, model)
    given = f"it has {_shown(list(job_input))}" if job_input else "it is empty"
    raise JobError(400, f"The job's input must have the key openai_route, route, messages or prompt; {given}.")


def _shorthand(job_input: dict[str, Any], model: str) -> Request:
    if "messages" in job_input and "prompt" in job_input:
        raise JobError(400, "The job's input must have either messages or prompt, not both.")
    sampling = job_input.get("sampling_params")
    if sampling is not None and not isinstance(sampling, dict):
        raise JobError(400, f"sampling_params must be an object, not {_shown(sampling)}.", param="sampling_params")
    body = {**(sampling or {}), **{key: value for key, value in job_input.items() if key != "sampling_params"}}
    return _request("/v1/chat/completions" if "messages" in body else "/v1/completions", body, None, model)


def _request(route: object, body: object, method: object, model: str) -> Request:
    served = ROUTES.get(route) if isinstance(route, str) else None
    if served is None or not isinstance(route, str):
        raise JobError(404, f"The route {_shown(route)} is not served; these are: {', '.join(ROUTES)}.", param="route")
    if method is not None and method != served:
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
        raise JobError(400, f"The body of the request cannot be sent as JSON: {error}.", param="body") from error
    if len(raw) > BODY_LIMIT:
        message = f"The body of the request has {len(raw):,} bytes; the most is {BODY_LIMIT:,}."
        raise JobError(413, message, param="body")
    return Request(served, route, raw, stream=bool(body.get("stream")))


def _shown(value: object) -> str:
    """Describe a caller's value: names and short values as they are, anything long by its kind and beginning."""
    text = repr(value) if isinstance(value, (str, int, float, bool, list, type(None))) else type(value).__name__
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({type(value).__name__})"
