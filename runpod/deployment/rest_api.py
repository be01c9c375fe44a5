"""RunPod's REST API v2: one method for each call the kit makes, retried where repeating is safe.

Source: https://api.runpod.io/v2/openapi.json (a copy lies in tests/deployment/). Errors follow RFC 9457.
"""

from __future__ import annotations

import json
import logging
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlsplit

import httpx2
import tenacity

from deployment.errors import ApiError, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deployment.masking import Redactor

logger = logging.getLogger(__name__)

Json = dict[str, Any]

# A bare library name is turned away by the web firewall in front of the API (HTTP 403, "error code 1010").
USER_AGENT = "gemma-vllm-kit/0.1 (deploy; httpx2)"
TIMEOUT = httpx2.Timeout(30.0, connect=10.0)
ATTEMPTS = 4
LONGEST_WAIT_S = 30.0

# What to change for a field that the API complains about; the longer path first.
_SETTING_OF_FIELD = (
    ("gpu.pools", "DEPLOY_GPU_POOLS"),
    ("pools", "DEPLOY_GPU_POOLS"),
    ("gpu.count", "DEPLOY_GPU_COUNT"),
    ("idleTimeout", "DEPLOY_IDLE_TIMEOUT"),
    ("workers.min", "DEPLOY_WORKERS_MIN"),
    ("workers.max", "DEPLOY_WORKERS_MAX"),
    ("queueDelay", "DEPLOY_SCALER_VALUE"),
    ("requestCount", "DEPLOY_SCALER_VALUE"),
    ("scaling", "DEPLOY_SCALER"),
    ("dataCenterIds", "DEPLOY_DATA_CENTERS"),
    ("networkVolumes", "DEPLOY_NETWORK_VOLUME"),
    ("flashboot", "DEPLOY_FLASHBOOT"),
    ("timeout", "DEPLOY_EXECUTION_TIMEOUT"),
    ("registry", "DEPLOY_REGISTRY"),
    ("image", "DEPLOY_IMAGE"),
    ("disk", "DEPLOY_DISK_GB"),
    ("name", "DEPLOY_NAME"),
)


class RunpodApi:
    """Call RunPod's REST API. A context manager; synchronous, since a deploy does one thing after another."""

    def __init__(self, url: str, key: str, redact: Redactor, *, pause: float = 0.5) -> None:
        """Take the address up to and with `/v2`, and the key; `pause` is the first wait before a repeat, in seconds."""
        if urlsplit(url).path in ("", "/"):
            url = url.rstrip("/") + "/v2"
        self._redact = redact
        self._pause = pause
        self._host = urlsplit(url).netloc
        self._http = httpx2.Client(
            base_url=url.rstrip("/") + "/",
            headers={"Authorization": f"Bearer {key}", "User-Agent": USER_AGENT, "Accept": "application/json"},
            timeout=TIMEOUT,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    # ---- endpoints

    def find_endpoint(self, name: str) -> Json | None:
        """Return the endpoint of that name, or None. Raises ApiError if there are several.

        RunPod used to mark FlashBoot by a suffix ` -fb` on the name; such an endpoint is found too.
        """
        endpoints = self._get("serverless")["endpoints"]
        found = [item for item in endpoints if item["name"].removesuffix("-fb").strip() == name or item["name"] == name]
        if len(found) > 1:
            ids = ", ".join(item["id"] for item in found)
            raise ApiError(
                f"{len(found)} endpoints are called {name!r} ({ids}): delete all but one in RunPod's console, "
                "or set another DEPLOY_NAME.",
                HTTPStatus.CONFLICT,
            )
        return dict(found[0]) if found else None

    def endpoint(self, endpoint_id: str) -> Json:
        """Return one endpoint."""
        return self._get(f"serverless/{quote(endpoint_id)}")

    def create_endpoint(self, body: Json) -> Json:
        """Create an endpoint, never two: before any repeat it is looked up by its name.

        A create that failed or whose answer was lost may have been carried out all the same; one that has not been
        answered in time may even be carried out later, so that one is looked for but not repeated.
        """
        late: Unreachable | None = None
        for attempt in self._attempts():
            with attempt:
                if attempt.retry_state.attempt_number > 1:
                    stored = self.find_endpoint(body["name"])
                    if stored is not None:
                        return stored
                if late is not None:
                    raise late
                try:
                    return self._send("POST", "serverless", body)
                except Unreachable as error:
                    late = error if error.late else None
                    raise
        raise AssertionError("unreachable")  # tenacity raises the last error itself

    def update_endpoint(self, endpoint_id: str, body: Json) -> Json:
        """Change the given fields (absolute values, so that repeating is safe)."""
        return self._repeat("PATCH", f"serverless/{quote(endpoint_id)}", body)

    def delete_endpoint(self, endpoint_id: str) -> None:
        """Delete an endpoint, all its workers and its template; one that is gone already is fine."""
        self._delete(f"serverless/{quote(endpoint_id)}")

    def workers(self, endpoint_id: str) -> Json:
        """Return `workers`, `summary` and `endpointVersion`."""
        return self._get(f"serverless/{quote(endpoint_id)}/workers")

    def releases(self, endpoint_id: str) -> Json:
        """Return `releases` (newest first), `rollout` and `endpointVersion`."""
        return self._get(f"serverless/{quote(endpoint_id)}/releases")

    def worker_log(
        self, endpoint_id: str, worker_id: str, *, tail: int = 100, source: str | None = None, idle: float | None = None
    ) -> Iterator[Json]:
        """Yield a worker's log lines (`source`, `line`, `ts`) as they come, until none comes for `idle` seconds."""
        params = {"tail": str(tail)} | ({"source": source} if source else {})
        path = f"serverless/{quote(endpoint_id)}/workers/{quote(worker_id)}/logs"
        timeout = httpx2.Timeout(30.0, connect=10.0, read=idle)
        try:
            with self._http.stream(
                "GET", path, params=params, timeout=timeout, headers={"Accept": "text/event-stream"}
            ) as answer:
                if answer.is_error:
                    answer.read()
                    raise self._error(answer)
                for line in answer.iter_lines():
                    if line.startswith("data:"):
                        yield _log_event(line.removeprefix("data:").strip())
        except httpx2.ReadTimeout:
            return
        except httpx2.TransportError as error:
            raise Unreachable(f"The log of worker {worker_id} broke off: {_why(error)}.") from error

    # ---- what endpoints are made of, and what they cost

    def gpu_types(self) -> list[Json]:
        """Return the catalogue's GPU types, with the price and availability for serverless."""
        gpus = self._get("catalog/gpus", {"include": "AVAILABILITY", "product": "SERVERLESS"})["gpus"]
        return list(gpus)

    def network_volume(self, volume_id: str) -> Json:
        """Return one network volume."""
        return self._get(f"network-volumes/{quote(volume_id)}")

    def delete_network_volume(self, volume_id: str) -> None:
        """Delete a network volume and everything on it."""
        self._delete(f"network-volumes/{quote(volume_id)}")

    def cost(self, endpoint_id: str, since: str) -> float:
        """Return what the endpoint has cost since a time (RFC 3339), in USD."""
        # Not /billing/endpoints, which is about RunPod's public endpoints.
        answer = self._get("billing/serverless", {"serverlessId": endpoint_id, "startTime": since, "bucketSize": "day"})
        return float(answer["metadata"]["totals"]["totalAmount"])

    # ---- the endpoint's own addresses (another host than the API's)

    def call_url(self, method: str, url: str, body: Json | None = None, *, timeout: float = 5.0) -> Json | None:
        """Return the answer of one of the endpoint's own addresses, or None if it does not answer in time."""
        try:
            answer = self._http.request(method, url, json=body, timeout=timeout)
            return dict(answer.json()) if answer.is_success and answer.content else None
        except (httpx2.HTTPError, ValueError, TypeError):
            return None

    # ---- how

    def _get(self, path: str, params: dict[str, str] | None = None) -> Json:
        return self._repeat("GET", path, None, params)

    def _delete(self, path: str) -> None:
        try:
            self._repeat("DELETE", path, None)
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise

    def _repeat(self, method: str, path: str, body: Json | None, params: dict[str, str] | None = None) -> Json:
        for attempt in self._attempts():
            with attempt:
                return self._send(method, path, body, params)
        raise AssertionError("unreachable")  # tenacity raises the last error itself

    def _attempts(self) -> tenacity.Retrying:
        backoff = tenacity.wait_exponential(self._pause, LONGEST_WAIT_S) + tenacity.wait_random(0, self._pause)

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = getattr(error, "retry_after", None)
            return min(float(asked), LONGEST_WAIT_S) if asked is not None else backoff(state)

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception(_worth_repeating),
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=wait,
            before_sleep=_tell,
            reraise=True,
        )

    def _send(self, method: str, path: str, body: Json | None, params: dict[str, str] | None = None) -> Json:
        try:
            answer = self._http.request(method, path, json=body, params=params)
        except httpx2.TransportError as error:
            raise Unreachable(
                f"RunPod's API at {self._host} does not answer ({_why(error)}): check the network and RUNPOD_API_URL.",
                late=isinstance(error, httpx2.ReadTimeout),
            ) from error
        if answer.is_error:
            raise self._error(answer)
        if not answer.content:
            return {}
        try:
            return dict(answer.json())
        except (ValueError, TypeError) as error:
            raise ApiError(
                f"{self._host} answered with something that is not RunPod's API: check RUNPOD_API_URL.",
                HTTPStatus.BAD_GATEWAY,
            ) from error

    def _error(self, answer: httpx2.Response) -> ApiError:
        try:
            problem = answer.json()
        except ValueError:
            problem = {}
        if not isinstance(problem, dict):
            problem = {}
        detail = self._redact(str(problem.get("detail") or problem.get("title") or "")).strip().rstrip(".")
        errors = tuple(self._redact(str(item)) for item in problem.get("errors") or ())
        message = _sentence(answer.status_code, detail, errors, answer.request)
        asked = answer.headers.get("Retry-After", "")
        return ApiError(message, answer.status_code, errors, float(asked) if asked.isdigit() else None)


def _worth_repeating(error: BaseException) -> bool:
    if isinstance(error, Unreachable):
        return True
    return isinstance(error, ApiError) and (
        error.status == HTTPStatus.TOO_MANY_REQUESTS or error.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    )


def _tell(state: tenacity.RetryCallState) -> None:
    logger.info("%s Trying again.", state.outcome.exception() if state.outcome else "")


def _why(error: Exception) -> str:
    return "no answer in time" if isinstance(error, httpx2.TimeoutException) else str(error) or type(error).__name__


def _sentence(status: int, detail: str, errors: tuple[str, ...], request: httpx2.Request) -> str:
    """Turn a status and an RFC 9457 body into one sentence that says what to do."""
    said = f" ({detail})" if detail else ""
    what = f"{request.method} {request.url.path}"
    match status:
        case HTTPStatus.UNAUTHORIZED:
            return f"RunPod does not accept RUNPOD_API_KEY{said}: make a key in the console under Settings, API Keys."
        case HTTPStatus.PAYMENT_REQUIRED:
            return f"The RunPod account has no funds left{said}: add credit in the console under Billing."
        case HTTPStatus.FORBIDDEN:
            return f"RUNPOD_API_KEY may not do this{said}: give the key read and write access to Serverless."
        case HTTPStatus.NOT_FOUND:
            hint = "DEPLOY_NETWORK_VOLUME" if "network-volumes" in request.url.path else _setting_for(detail)
            named = f" (set by {hint})" if hint else ""
            return (
                f"RunPod knows nothing at {request.url.path}{said}{named}: was it deleted, or is it another account's?"
            )
        case HTTPStatus.CONFLICT:
            return (
                f"RunPod is busy with another change to the same thing{said}: wait a minute and run the command again."
            )
        case HTTPStatus.BAD_REQUEST | HTTPStatus.UNPROCESSABLE_ENTITY:
            complaints = "; ".join(error.strip().rstrip(".") for error in errors) or detail or "no reason given"
            hint = _setting_for(complaints)
            return f"RunPod refused the request: {complaints}" + (f" (set by {hint})." if hint else ".")
        case HTTPStatus.TOO_MANY_REQUESTS:
            return f"RunPod's rate limit is reached{said}: wait a minute and run the command again."
        case _ if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return f"RunPod failed with {status} at {what}{said}: nothing is wrong on this side, try again later."
        case _:
            return f"RunPod answered {status} to {what}{said}."


def _setting_for(complaints: str) -> str | None:
    dotted = re.sub(r"[/\[\]]+", ".", complaints)  # a field may come as gpu.pools, /gpu/pools or gpu[pools]
    return next(
        (setting for field, setting in _SETTING_OF_FIELD if re.search(rf"\b{re.escape(field)}\b", dotted)), None
    )


def _log_event(data: str) -> Json:
    try:
        event = json.loads(data)
    except ValueError:
        event = None
    return event if isinstance(event, dict) else {"source": "", "line": data, "ts": ""}
