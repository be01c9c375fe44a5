"""RunPod's REST API v2: one method for each call the kit makes, repeated where that is safe.

Every call returns what `answers` says or raises a DeployError with one sentence, whatever comes back.
Source: https://api.runpod.io/v2/openapi.json (a copy lies in tests/deployment/). Errors follow RFC 9457.
"""

from __future__ import annotations

import logging
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload
from urllib.parse import quote, urlsplit

import httpx2
import tenacity

from client.terminal import sanitize_line
from deployment.answers import (
    Answer,
    Billing,
    Endpoint,
    EndpointList,
    GpuType,
    GpuTypeList,
    LogEvent,
    NetworkVolume,
    Problem,
    ReleaseList,
    WorkerList,
    read,
)
from deployment.errors import ApiError, Unreachable, sentence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deployment.masking import Redactor

logger = logging.getLogger(__name__)

Json = dict[str, Any]
A = TypeVar("A", bound=Answer)

# A bare library name is turned away by the web firewall in front of the API (HTTP 403, "error code 1010").
USER_AGENT = "gemma-vllm-kit/0.1 (deploy; httpx2)"
TIMEOUT = httpx2.Timeout(30.0, connect=10.0)
ATTEMPTS = 4
LONGEST_WAIT_S = 30.0

LONGEST_ANSWER = 32 << 20  # bytes
LONGEST_QUOTE, MOST_COMPLAINTS = 500, 10


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

    def endpoints_called(self, name: str) -> list[Endpoint]:
        """Return the endpoints of that name, the oldest first."""
        found = [item for item in self._get(EndpointList, "serverless").endpoints if item.is_called(name)]
        return sorted(found, key=lambda item: (item.created_at, item.id))

    def find_endpoint(self, name: str) -> Endpoint | None:
        """Return the endpoint of that name, or None. Raises ApiError if there are several."""
        found = self.endpoints_called(name)
        if len(found) > 1:
            ids = ", ".join(item.id for item in found)
            raise ApiError(
                f"{len(found)} endpoints are called {name!r} ({ids}): `make undeploy` removes them all, RunPod's "
                "console one of them; or set another DEPLOY_NAME.",
                HTTPStatus.CONFLICT,
            )
        return found[0] if found else None

    def endpoint(self, endpoint_id: str) -> Endpoint:
        """Return one endpoint."""
        return self._get(Endpoint, f"serverless/{_part(endpoint_id)}")

    def create_endpoint(self, body: Json) -> Endpoint:
        """Create an endpoint, never two: before any repeat it is looked up by its name.

        A create that failed or whose answer was lost may have been carried out all the same; one that has not been
        answered in time may even be carried out later, so that one is looked for but not repeated.
        """
        late: Unreachable | None = None
        for attempt in self._attempts():
            with attempt:
                if attempt.retry_state.attempt_number > 1:
                    stored = self.endpoints_called(body["name"])
                    if stored:
                        return stored[-1]  # where another deploy has made one too, this one's is not the elder
                if late is not None:
                    raise late
                try:
                    return self._send(Endpoint, "POST", "serverless", body)
                except Unreachable as error:
                    late = error if error.late else None
                    raise
        raise AssertionError("unreachable")  # tenacity raises the last error itself

    def update_endpoint(self, endpoint_id: str, body: Json) -> Endpoint:
        """Change the given fields (absolute values, so that repeating is safe)."""
        return self._repeat(Endpoint, "PATCH", f"serverless/{_part(endpoint_id)}", body)

    def delete_endpoint(self, endpoint_id: str) -> None:
        """Delete an endpoint, all its workers and its template; one that is gone already is fine."""
        self._delete(f"serverless/{_part(endpoint_id)}")

    def workers(self, endpoint_id: str) -> WorkerList:
        """Return an endpoint's workers."""
        return self._get(WorkerList, f"serverless/{_part(endpoint_id)}/workers")

    def releases(self, endpoint_id: str) -> ReleaseList:
        """Return an endpoint's releases, newest first."""
        return self._get(ReleaseList, f"serverless/{_part(endpoint_id)}/releases")

    def worker_log(
        self, endpoint_id: str, worker_id: str, *, tail: int = 100, source: str | None = None, idle: float | None = None
    ) -> Iterator[LogEvent]:
        """Yield a worker's log lines as they come, until none comes for `idle` seconds."""
        params = {"tail": str(tail)} | ({"source": source} if source else {})
        path = f"serverless/{_part(endpoint_id)}/workers/{_part(worker_id)}/logs"
        timeout = httpx2.Timeout(30.0, connect=10.0, read=idle)
        try:
            with self._http.stream(
                "GET", path, params=params, timeout=timeout, headers={"Accept": "text/event-stream"}
            ) as answer:
                if not answer.is_success:
                    raise self._error(answer, _content(answer))
                for line in answer.iter_lines():
                    if line.startswith("data:"):
                        yield _log_event(line.removeprefix("data:").strip())
        except httpx2.ReadTimeout:
            return
        except httpx2.RequestError as error:
            raise Unreachable(f"The log of worker {worker_id} broke off: {_why(error)}.") from error

    # ---- what endpoints are made of, and what they cost

    def gpu_types(self, *, count: int, min_cuda: str) -> list[GpuType]:
        """Return the catalogue's GPU types, with the price for serverless, and what is in stock of what will run."""
        params = {"include": "AVAILABILITY", "product": "SERVERLESS", "count": str(count), "minCudaVersion": min_cuda}
        return self._get(GpuTypeList, "catalog/gpus", params).gpus

    def network_volume(self, volume_id: str) -> NetworkVolume:
        """Return one network volume."""
        return self._get(NetworkVolume, f"network-volumes/{_part(volume_id)}")

    def delete_network_volume(self, volume_id: str) -> None:
        """Delete a network volume and everything on it."""
        self._delete(f"network-volumes/{_part(volume_id)}")

    def cost(self, endpoint_id: str, since: str) -> float:
        """Return what the endpoint has cost since a time (RFC 3339), in USD."""
        # Not /billing/endpoints, which is about RunPod's public endpoints.
        params = {"serverlessId": endpoint_id, "startTime": since, "bucketSize": "day"}
        return self._get(Billing, "billing/serverless", params).metadata.totals.total_amount

    # ---- the endpoint's own addresses (another host than the API's)

    def call_url(
        self, model: type[A], method: str, url: str, body: Json | None = None, *, timeout: float = 5.0
    ) -> A | None:
        """Return the answer of one of the endpoint's own addresses, or None if it does not answer as it should."""
        try:
            with self._http.stream(method, url, json=body, timeout=timeout) as answer:
                return read(model, _content(answer)) if answer.is_success else None
        except (httpx2.RequestError, httpx2.InvalidURL, ValueError, ApiError):
            return None

    # ---- how

    def _get(self, model: type[A], path: str, params: dict[str, str] | None = None) -> A:
        return self._repeat(model, "GET", path, None, params)

    def _delete(self, path: str) -> None:
        try:
            self._repeat(None, "DELETE", path, None)
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise

    @overload
    def _repeat(
        self, model: type[A], method: str, path: str, body: Json | None, params: dict[str, str] | None = None
    ) -> A: ...
    @overload
    def _repeat(self, model: None, method: str, path: str, body: Json | None) -> None: ...
    def _repeat(
        self, model: type[A] | None, method: str, path: str, body: Json | None, params: dict[str, str] | None = None
    ) -> A | None:
        for attempt in self._attempts():
            with attempt:
                return self._send(model, method, path, body, params)
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

    @overload
    def _send(
        self, model: type[A], method: str, path: str, body: Json | None, params: dict[str, str] | None = None
    ) -> A: ...
    @overload
    def _send(
        self, model: type[A] | None, method: str, path: str, body: Json | None, params: dict[str, str] | None = None
    ) -> A | None: ...
    def _send(
        self, model: type[A] | None, method: str, path: str, body: Json | None, params: dict[str, str] | None = None
    ) -> A | None:
        try:
            with self._http.stream(method, path, json=body, params=params) as answer:
                content = _content(answer)
        except httpx2.RequestError as error:
            raise Unreachable(
                f"RunPod's API at {self._host} does not answer ({_why(error)}): check the network and RUNPOD_API_URL.",
                late=isinstance(error, httpx2.ReadTimeout),
            ) from error
        if not answer.is_success:
            raise self._error(answer, content)
        if model is None:
            return None
        try:
            return read(model, content)
        except ValueError as error:
            raise ApiError(
                f"{method} {answer.request.url.path} at {self._host} was answered with something that is not RunPod's "
                f"API ({self._quote(str(error))}): check RUNPOD_API_URL, or try again later.",
                HTTPStatus.BAD_GATEWAY,
                odd=True,
            ) from error

    def _error(self, answer: httpx2.Response, content: bytes) -> ApiError:
        try:
            problem = read(Problem, content)
        except ValueError:
            problem = Problem()
        detail = self._quote(problem.detail or problem.title).rstrip(".")
        errors = tuple(map(self._quote, problem.errors[:MOST_COMPLAINTS]))
        message = sentence(answer.status_code, answer.request.method, answer.request.url, detail, errors)
        asked = answer.headers.get("Retry-After", "")
        return ApiError(
            message, answer.status_code, errors, float(asked) if re.fullmatch(r"[0-9]{1,6}", asked) else None
        )

    def _quote(self, text: str) -> str:
        """Return what the API said, fit for a sentence."""
        return sanitize_line(self._redact(text))[:LONGEST_QUOTE]


def _part(text: str) -> str:
    """Return an id as a part of an address."""
    return quote(text, safe="")


def _content(answer: httpx2.Response) -> bytes:
    """Return an answer's content. Raises ApiError for one without end."""
    content = bytearray()
    for piece in answer.iter_bytes():
        content += piece
        if len(content) > LONGEST_ANSWER:
            raise ApiError(
                f"{answer.request.url.host} answered with more than {LONGEST_ANSWER >> 20} MiB: check RUNPOD_API_URL.",
                HTTPStatus.BAD_GATEWAY,
                odd=True,
            )
    return bytes(content)


def _worth_repeating(error: BaseException) -> bool:
    if isinstance(error, Unreachable):
        return True
    return (
        isinstance(error, ApiError)
        and not error.odd
        and (error.status == HTTPStatus.TOO_MANY_REQUESTS or error.status >= HTTPStatus.INTERNAL_SERVER_ERROR)
    )


def _tell(state: tenacity.RetryCallState) -> None:
    logger.info("%s Trying again.", state.outcome.exception() if state.outcome else "")


def _why(error: Exception) -> str:
    return "no answer in time" if isinstance(error, httpx2.TimeoutException) else str(error) or type(error).__name__


def _log_event(data: str) -> LogEvent:
    try:
        return read(LogEvent, data)
    except ValueError:
        return LogEvent(line=data)
