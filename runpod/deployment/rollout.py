"""After `up`: wait until a worker is ready, ask it one real question, and tell the application where it is."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client import LLMClient
from deployment import status as endpoint_status
from deployment.errors import DeployError
from deployment.report import duration

if TYPE_CHECKING:
    from deployment.rest_api import RunpodApi
    from deployment.terminal import Screen

Json = dict[str, Any]

ENV_FILE = Path(".env.runpod")
QUESTION = "What is the capital of France? Answer with one word."
FIRST_POLL_S, LONGEST_POLL_S = 0.5, 5.0
PLACING_S = 900.0  # for a GPU to come free and the image to be pulled; RunPod bills neither


def wait_until_ready(api: RunpodApi, endpoint: Json, *, init_timeout: float, screen: Screen) -> None:
    """Return when a worker of the current release can take work; show the way there.

    With no worker that always runs, one small request wakes the first. Raises DeployError when it takes too long.
    """
    begin, poll, last = time.monotonic(), FIRST_POLL_S, ""
    told: set[str] = set()
    asleep = endpoint["workers"]["min"] == 0
    with screen.progress():
        while True:
            workers = api.workers(endpoint["id"])
            if asleep and not workers["workers"]:
                _wake(api, endpoint)
                asleep = False
            stage = _stage(workers)
            elapsed = time.monotonic() - begin
            screen.step(f"{duration(elapsed):>12}  {stage}", new=stage != last)
            if stage.startswith("ready"):
                return
            for worker in endpoint_status.unhealthy(workers):
                if worker["id"] not in told:
                    told.add(worker["id"])
                    error = endpoint_status.last_error(api, endpoint["id"], worker["id"])
                    screen.warn(f"worker {worker['id']} is unhealthy: {error}")
            if elapsed > init_timeout + PLACING_S:
                raise DeployError(
                    f"No worker was ready after {duration(elapsed)} ({stage}): see `make deploy-logs` and "
                    "`make deploy-status`."
                )
            last = stage
            time.sleep(poll)
            poll = min(poll * 1.5, LONGEST_POLL_S)


def ask(base_url: str, api_key: str, model: str) -> str:
    """Return the endpoint's answer to one question, through the bundled client. Raises DeployError."""

    async def answer() -> str:
        async with LLMClient(base_url, api_key, model, max_tokens=32, temperature=0.0) as client:
            return await client.generate([{"role": "user", "content": QUESTION}])

    try:
        text = asyncio.run(answer()).strip()
    except Exception as error:  # whatever it is, it is one sentence to the user, and the cause is kept
        raise DeployError(f"The endpoint is up but did not answer a question: {error}") from error
    if not text:
        raise DeployError("The endpoint is up but answered a question with nothing: see `make deploy-logs`.")
    return text


def write_env_file(base_url: str, api_key: str, model: str, path: Path = ENV_FILE) -> None:
    """Write the three lines that point the client at the endpoint; all or nothing, readable by the owner alone."""
    lines = {"LLM_BASE_URL": base_url, "LLM_API_KEY": api_key, "LLM_MODEL": model}
    text = "".join(f"{name}={value}\n" for name, value in lines.items())
    handle, draft = tempfile.mkstemp(prefix=path.name, dir=path.absolute().parent)  # mode 600 from the start
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def remove_env_file(base_url: str | None, path: Path = ENV_FILE) -> bool:
    """Remove the file again if it points at that endpoint; tell whether it did."""
    if base_url is None or not path.is_file() or f"LLM_BASE_URL={base_url}\n" not in path.read_text(encoding="utf-8"):
        return False
    path.unlink()
    return True


def _wake(api: RunpodApi, endpoint: Json) -> None:
    urls = endpoint.get("requestUrls") or {}
    if urls.get("run"):
        api.call_url("POST", urls["run"], {"input": {"openai_route": "/v1/models"}}, timeout=10.0)
    elif urls.get("health"):
        api.call_url("GET", urls["health"], timeout=10.0)


def _stage(workers: Json) -> str:
    current = [worker for worker in workers["workers"] if not worker.get("isStale")]
    states = [worker["status"] for worker in current]
    ready = sum(state in ("IDLE", "RUNNING") for state in states)
    if ready:
        return f"ready: {ready} of {len(current)} workers"
    starting = [worker for worker in current if worker["status"] == "INITIALIZING"]
    if any(worker.get("uptimeSeconds") is not None for worker in starting):
        return "loading the model"
    if any(worker.get("gpuTypeId") for worker in starting):
        return "pulling the image"
    if starting or "THROTTLED" in states:
        return "waiting for a GPU"
    if "UNHEALTHY" in states:
        return "unhealthy"
    return "waiting for a worker of the new release" if workers["workers"] else "waiting for a worker"
