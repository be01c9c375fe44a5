"""The yardstick of worker_bench: a queue worker that forwards each read from vLLM as one post.

Written for the benchmark after the documented behaviour of RunPod's own vLLM worker (a session for each job, a yield
for each read, everything sent again as the aggregate); it is not that worker's code. OFFICIAL_HANDLER names that
worker's own `src/handler.py`, in a checkout of it, to be run instead; VLLM_BASE_URL tells it where vLLM is, too.
"""

from __future__ import annotations

import os
import runpy
from typing import TYPE_CHECKING, Any

import aiohttp
import runpod.serverless  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def handle(job: dict[str, Any]) -> AsyncIterator[str]:
    """Yield each read of vLLM's stream."""
    request = job["input"]
    url = os.environ["VLLM_BASE_URL"] + request["openai_route"]
    timeout = aiohttp.ClientTimeout(total=3600)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.post(url, json=request["openai_input"]) as response,
    ):
        async for data in response.content.iter_any():
            yield data.decode("utf-8", "replace")


if __name__ == "__main__":
    official = os.environ.get("OFFICIAL_HANDLER")
    handler = runpy.run_path(official)["handler"] if official else handle
    runpod.serverless.start(
        {"handler": handler, "concurrency_modifier": lambda _current: 30, "return_aggregate_stream": True}
    )
