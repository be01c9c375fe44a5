"""A worker that cannot start, or whose vLLM has failed, told to the platform."""

from __future__ import annotations

import contextlib
import os
import urllib.parse
import urllib.request

REASON_LIMIT = 256  # characters that the platform takes
TIMEOUT_S = 2.0


def report_unhealthy(reason: str, check: str = "start") -> None:
    """Tell the platform why this worker ends, as the SDK's own fitness checks do; without a platform do nothing.

    The call is the one that the SDK (1.12, rp_fitness.py) makes: a ping with `status=unhealthy`. Never fails.
    """
    url, key = os.environ.get("RUNPOD_WEBHOOK_PING"), os.environ.get("RUNPOD_AI_API_KEY")
    if not url or not key:
        return
    query = urllib.parse.urlencode({"status": "unhealthy", "check": check, "reason": reason[:REASON_LIMIT]})
    address = f"{url.replace('$RUNPOD_POD_ID', os.environ.get('RUNPOD_POD_ID', ''))}&{query}"
    request = urllib.request.Request(address, headers={"Authorization": key, "User-Agent": "gemma-vllm-kit"})
    with contextlib.suppress(OSError, ValueError):
        urllib.request.urlopen(request, timeout=TIMEOUT_S).close()
