"""Errors on their way to the caller: OpenAI's error object, in the two forms that survive RunPod's SDK."""

from __future__ import annotations

import json
from typing import Any

# The type that vLLM gives to each status, for errors of our own.
_TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    409: "ConflictError",
    413: "RequestTooLargeError",
    422: "UnprocessableEntityError",
    429: "RateLimitError",
    502: "BadGatewayError",
    503: "ServiceUnavailableError",
}
MESSAGE_LIMIT = 4_000  # characters
ANTHROPIC_ROUTE = "/v1/messages"


class JobError(Exception):
    """Why one job fails, with an HTTP status (`code`), as vLLM would have. 503: the same job may succeed elsewhere.

    `sent`: whether its event is in the stream already, since vLLM put it there.
    """

    def __init__(
        self, code: int, message: str, *, kind: str | None = None, param: str | None = None, sent: bool = False
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message if len(message) <= MESSAGE_LIMIT else f"{message[:MESSAGE_LIMIT]}..."
        self.kind = kind or _TYPES.get(code) or ("BadRequestError" if 400 <= code < 500 else "InternalServerError")
        self.param = param
        self.sent = sent

    @classmethod
    def from_vllm(cls, status: int, raw: bytes) -> JobError:
        """Read what vLLM answered under an error status: OpenAI's object, an older one, FastAPI's, or a text."""
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError):
            body = None
        return cls.from_object(status, body) or cls(status, raw[:500].decode("utf-8", "replace") or "no message")

    @classmethod
    def from_object(cls, status: int, body: Any) -> JobError | None:
        """Read an error object; return None if `body` is none."""
        error = body.get("error", body) if isinstance(body, dict) else None
        if isinstance(error, str):
            return cls(status, error)
        if not isinstance(error, dict):
            return None
        message = error.get("message") or error.get("detail")
        if not message:
            return None
        code = error.get("code")
        code = code if type(code) is int and 400 <= code <= 599 else status
        message = message if isinstance(message, str) else json.dumps(message)
        kind, param = error.get("type"), error.get("param")
        return cls(
            code,
            message,
            kind=kind if isinstance(kind, str) and kind != "error" else None,
            param=param if isinstance(param, str) else None,
        )

    def as_object(self) -> dict[str, Any]:
        """Return OpenAI's error object, in its envelope."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def as_output(self) -> dict[str, str]:
        """Return what a handler yields to fail its job.

        The SDK turns whatever stands under `error` into text with `str`: JSON text stays as it is, an object would
        become a Python repr.
        """
        return {"error": json.dumps(self.as_object(), ensure_ascii=False)}

    def as_event(self, route: str) -> str:
        """Return a server-sent event that a client of `route` takes for an error."""
        if route.startswith(ANTHROPIC_ROUTE):
            return f"event: error\ndata: {json.dumps({'type': 'error', **self.as_object()}, ensure_ascii=False)}\n\n"
        return f"data: {json.dumps(self.as_object(), ensure_ascii=False)}\n\n"
