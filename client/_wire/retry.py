"""Sending a request again: only before its answer began, and only where it may help without doing the work twice.

Back-off as in the openai client: 0.5 s, doubled each time up to 8 s, less up to a quarter; or what the server asks for.
"""

from __future__ import annotations

import random

from client.errors import LLMConnectionError, LLMError, LLMTimeoutError, RateLimitedError, ServerError

_FIRST_S = 0.5
_LONGEST_S = 8.0
_LONGEST_RETRY_AFTER_S = 120.0


def may_send_again(error: LLMError) -> bool:
    """Return whether the request that ended in `error` may be sent to the same endpoint again."""
    if not error.retryable:
        return False
    if isinstance(error, LLMTimeoutError):
        return error.phase == "connect"
    if isinstance(error, (RateLimitedError, ServerError)):
        return error.status is not None and (error.retry_after or 0) <= _LONGEST_RETRY_AFTER_S
    return isinstance(error, LLMConnectionError)


def may_fall_back(error: LLMError) -> bool:
    """Return whether the other endpoint may be asked after `error`: no connection, 429 or 5xx."""
    if isinstance(error, LLMTimeoutError):
        return error.phase == "connect"
    if isinstance(error, ServerError):
        return error.status is None or error.status >= 500
    return isinstance(error, (LLMConnectionError, RateLimitedError))


def pause(attempt: int, error: LLMError) -> float:
    """Return the seconds to wait after the failed `attempt` (0 is the first)."""
    asked = error.retry_after if isinstance(error, (RateLimitedError, ServerError)) else None
    if asked is not None:
        return asked
    return float(min(_FIRST_S * 2**attempt, _LONGEST_S) * (1 - 0.25 * random.random()))  # noqa: S311 - jitter
