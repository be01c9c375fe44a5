"""Waiting for an endpoint that starts: vLLM loading a model, a RunPod worker cold, or nothing to wait for at all."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from client._wire.chunk import loads
from client._wire.endpoint import model_names
from client._wire.error_body import find_error
from client._wire.error_mapping import retry_after
from client._wire.masking import quote
from client.errors import AuthenticationError, ConfigurationError, LLMTimeoutError, ModelNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

    from client._wire.endpoint import Endpoint

_POLL_S = 1.0
_LONGEST_POLL_S = 10.0  # whatever Retry-After says: a server that is ready should not have to wait long to be seen
_PROBE_S = 5.0


async def wait_until_ready(
    endpoint: Endpoint, model: str, timeout: float, on_progress: Callable[[str], object] | None
) -> None:
    """Wait until `endpoint` can answer for `model`; see `LLMClient.wait_until_ready`."""
    if not isinstance(timeout, (int, float)) or not timeout > 0:
        raise ConfigurationError("timeout must be a number of seconds, more than 0.")
    await endpoint.enter_loop()
    probe = _RunPod(endpoint) if _queue_root(endpoint.base_url) and endpoint.is_runpod else _Server(endpoint, model)
    state = ""
    try:
        async with asyncio.timeout(timeout):
            while (now := await probe.look()) is not None:
                if now != state and on_progress is not None:
                    on_progress(now)
                state = now
                await asyncio.sleep(min(max(_POLL_S, probe.asked_to_wait), _LONGEST_POLL_S))
    except TimeoutError as error:
        raise LLMTimeoutError(
            f"{endpoint.name} was not ready within {timeout:g} s: {state or 'no answer'}.", phase="total"
        ) from error
    finally:
        await probe.aclose()


class _Probe:
    """What looks at an endpoint. `asked_to_wait` is the Retry-After of its last answer, in seconds, or 0."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.asked_to_wait = 0.0

    async def get(self, url: str, timeout: float | None = _PROBE_S) -> tuple[int | str, Any]:
        """Return the status and the decoded body, or what went wrong instead of a status."""
        endpoint = self._endpoint
        try:
            response = await endpoint.get(url, timeout)
        except TimeoutError:
            return "no answer", None
        except Exception as error:  # whatever a server that is no HTTP server makes the libraries raise
            return quote(str(error), endpoint.keys) or type(error).__name__, None
        self.asked_to_wait = retry_after(response.headers) or 0.0
        try:
            return response.status_code, loads(response.content)
        except ValueError:
            return response.status_code, None

    def said(self, body: Any) -> str:
        """Return what the server itself says of why it is not ready, in brackets, or nothing."""
        error = find_error(body)
        return f" ({quote(error.message, self._endpoint.keys)})" if error and error.message else ""


class _Server(_Probe):
    """Looks at vLLM (`/health` beside `/v1`), a load-balanced RunPod worker (`/ping`), or a plain OpenAI server."""

    def __init__(self, endpoint: Endpoint, model: str) -> None:
        super().__init__(endpoint)
        self._model = model
        parts = urlsplit(endpoint.base_url)
        root = urlunsplit(parts._replace(path=parts.path.rstrip("/").removesuffix("/v1"), query="", fragment=""))
        self._health = f"{root}/ping" if endpoint.is_runpod else f"{root}/health"

    async def look(self) -> str | None:
        """Return what is waited for, or None once it is there."""
        status, body = await self.get(self._health)
        if isinstance(status, str):
            return f"waiting for a connection ({status})"
        if status == 204 or status >= 500:
            return f"waiting for the server to load its model (its health check says {status}){self.said(body)}"
        status, body = await self.get(f"{self._endpoint.base_url}/models")
        if isinstance(status, str):
            return f"waiting for the list of models ({status})"
        if status in (401, 403):
            raise AuthenticationError(
                f"{self._endpoint.name} refused the key (HTTP {status}). Check {self._endpoint.variable('API_KEY')}.",
                status=status,
            )
        if status != 200:
            return f"waiting for the list of models (HTTP {status}){self.said(body)}"
        names = model_names(body)
        if names is None:
            return "waiting for the list of models (what came is none)"
        if names and self._model not in names:
            listed = ", ".join(quote(name, self._endpoint.keys) for name in names[:20])
            raise ModelNotFoundError(
                f"{self._endpoint.name} is up, but has no model {self._model!r}. It has: {listed}. Set LLM_MODEL."
            )
        return None

    async def aclose(self) -> None:
        """Do nothing: this probe leaves nothing running."""


class _RunPod(_Probe):
    """Looks at a queue endpoint's own health. It starts no worker by itself: with none about, one request wakes it."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self._health = f"{_queue_root(endpoint.base_url)}/health"
        self._waking: asyncio.Task[tuple[int | str, Any]] | None = None

    async def look(self) -> str | None:
        """Return what is waited for, or None once a worker is up."""
        if self._waking is not None and self._waking.done() and self._waking.result()[0] == 200:
            return None
        status, body = await self.get(self._health)
        if isinstance(status, str):
            return f"waiting for a connection ({status})"
        if status in (401, 403):
            raise AuthenticationError(
                f"{self._endpoint.name} refused the key (HTTP {status}). Check {self._endpoint.variable('API_KEY')}.",
                status=status,
            )
        if status != 200 or not isinstance(body, dict):
            return f"waiting for the endpoint's health (HTTP {status})"
        workers, jobs = _counts(body.get("workers")), _counts(body.get("jobs"))
        if workers.get("ready", 0) + workers.get("idle", 0) + workers.get("running", 0) > 0:
            return None
        queued = jobs.get("inQueue", 0)
        if self._waking is None and not queued and not sum(workers.values()):
            # One job, however often we look: an endpoint scaled to zero starts a worker for nothing less.
            self._waking = asyncio.create_task(self.get(f"{self._endpoint.base_url}/models", None))
        seen = ", ".join(f"{number} {name}" for name, number in workers.items() if number) or "none yet"
        return f"waiting for a worker ({seen}; {queued} {'job' if queued == 1 else 'jobs'} in queue)"

    async def aclose(self) -> None:
        """Give up the request that was to wake a worker."""
        if self._waking is not None:
            self._waking.cancel()
            with suppress(asyncio.CancelledError):
                await self._waking


def _queue_root(base_url: str) -> str:
    """Return the address of a queue endpoint without its /openai/v1, "" for other addresses."""
    root, found, _ = base_url.partition("/openai")
    return root if found else ""


def _counts(found: Any) -> dict[str, int]:
    return {name: value for name, value in found.items() if isinstance(value, int)} if isinstance(found, dict) else {}
