"""What can go wrong on the client side, as one tree.

LLMError                        root: `status`, `partial`, `retryable`, `request_id`; the openai error is `__cause__`
├── ConfigurationError          a setting or an argument that makes no sense
├── LLMConnectionError          no connection, or it was lost before an answer began
├── LLMTimeoutError             a deadline passed: `phase` is connect, first_token, idle or total
├── AuthenticationError         401, 403: the key is missing, wrong or not allowed to do this
├── BadRequestError             400, 422 and other 4xx: the server will not take this request
│   └── ModelNotFoundError      404: the server has no such model; the message names those it has
├── RateLimitedError            429: too many requests; `retry_after` in seconds where the server said
├── ServerError                 5xx, 408, 409: the server's own trouble; `retry_after` likewise
├── StreamInterruptedError      the answer broke off, or ended without a finish reason or `[DONE]`
└── UnexpectedResponseError     not an answer at all: HTML, a job's status, a body of another shape
"""

from __future__ import annotations

from typing import Literal

Phase = Literal["connect", "first_token", "idle", "total"]


class LLMError(Exception):
    """Root of this package's errors.

    `status` is the HTTP status, or the one that the body spoke of, or None; `partial` is the text received so far;
    `retryable` says whether the same request may succeed when sent again; `request_id` is the server's, or None.
    """

    retryable = False

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        partial: str = "",
        retryable: bool | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.partial = partial
        self.request_id = request_id
        if retryable is not None:
            self.retryable = retryable


class ConfigurationError(LLMError):
    """A setting or an argument that makes no sense, in one sentence that names it and what is allowed."""


class LLMConnectionError(LLMError):
    """The server could not be reached, or dropped the connection before its answer began.

    `connected` is False where nothing can have reached the server.
    """

    retryable = True
    connected = False


class LLMTimeoutError(LLMError):
    """A deadline that passed; `phase` says which: connect, first_token, idle or total."""

    retryable = True

    def __init__(
        self,
        message: str,
        *,
        phase: Phase = "total",
        status: int | None = None,
        partial: str = "",
        retryable: bool | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message, status=status, partial=partial, retryable=retryable, request_id=request_id)
        self.phase: Phase = phase


class AuthenticationError(LLMError):
    """A key that is missing, wrong or not allowed to do this (401, 403)."""


class BadRequestError(LLMError):
    """A request that the server will not take (400, 422 and other 4xx).

    `parameter` names what of it is to blame, where the server said so, else "".
    """

    parameter = ""


class ModelNotFoundError(BadRequestError):
    """A model that the server does not have; the message names those it has, where it says."""


class RateLimitedError(LLMError):
    """Too many requests (429); `retry_after` is the wait in seconds that the server asked for, or None."""

    retryable = True
    retry_after: float | None = None


class ServerError(LLMError):
    """The server's own trouble (5xx, and 408 and 409).

    `retry_after` as with RateLimitedError, `parameter` as with BadRequestError.
    """

    retryable = True
    parameter = ""
    retry_after: float | None = None


class StreamInterruptedError(LLMError):
    """An answer that broke off; what had arrived is in `partial`."""

    retryable = True


class UnexpectedResponseError(LLMError):
    """Something that is not an answer: HTML, a job's status, a body of another shape."""
