"""What can go wrong while deploying, as one tree, under the serving side's root.

ServingError
└── DeployError          1   one sentence that says what was refused and what to do
    ├── ApiError         1   RunPod answered with an error; `status`, and the fields at fault
    ├── Unreachable      1   no answer at all, or none in time
    └── Declined         2   a question was answered with no, or nobody was there to answer it
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from deployment import fields
from serving.errors import ServingError

if TYPE_CHECKING:
    from httpx2 import URL


class DeployError(ServingError):
    """Root of what goes wrong while deploying."""


class ApiError(DeployError):
    """RunPod answered with an error.

    `status` is the HTTP status; `errors` holds the single complaints, each naming a field;
    `retry_after` is the wait that was asked for, in seconds. `odd`: it is not an answer of RunPod's, so that nothing is
    known of what was done, and repeating would not help.
    """

    def __init__(
        self,
        message: str,
        status: int,
        errors: tuple[str, ...] = (),
        retry_after: float | None = None,
        *,
        odd: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.errors = errors
        self.retry_after = retry_after
        self.odd = odd


class Unreachable(DeployError):
    """No answer came, or none in time; `late`: the request arrived and may still be worked on."""

    def __init__(self, message: str, *, late: bool = False) -> None:
        super().__init__(message)
        self.late = late


class Declined(DeployError):
    """A question was answered with no, or nobody was there to answer it."""

    exit_status = 2


def sentence(status: int, method: str, url: URL, detail: str, complaints: tuple[str, ...]) -> str:
    """Return one sentence that says what to do, from a status and an RFC 9457 body."""
    said = f" ({detail})" if detail else ""
    what = f"{method} {url.path}"
    match status:
        case HTTPStatus.UNAUTHORIZED:
            return f"RunPod does not accept RUNPOD_API_KEY{said}: make a key in the console under Settings, API Keys."
        case HTTPStatus.PAYMENT_REQUIRED:
            return f"The RunPod account has no funds left{said}: add credit in the console under Billing."
        case HTTPStatus.FORBIDDEN:
            return f"RUNPOD_API_KEY may not do this{said}: give the key read and write access to Serverless."
        case HTTPStatus.NOT_FOUND:
            hint = "DEPLOY_NETWORK_VOLUME" if "network-volumes" in url.path else fields.setting_for(detail)
            named = f" (set by {hint})" if hint else ""
            return f"RunPod knows nothing at {url.path}{said}{named}: was it deleted, or is it another account's?"
        case HTTPStatus.CONFLICT:
            return (
                f"RunPod is busy with another change to the same thing{said}: wait a minute and run the command again."
            )
        case HTTPStatus.BAD_REQUEST | HTTPStatus.UNPROCESSABLE_ENTITY:
            reasons = "; ".join(error.strip().rstrip(".") for error in complaints) or detail or "no reason given"
            hint = fields.setting_for(reasons)
            return f"RunPod refused the request: {reasons}" + (f" (set by {hint})." if hint else ".")
        case HTTPStatus.TOO_MANY_REQUESTS:
            return f"RunPod's rate limit is reached{said}: wait a minute and run the command again."
        case _ if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return f"RunPod failed with {status} at {what}{said}: nothing is wrong on this side, try again later."
        case _ if 300 <= status < 400:
            return f"{url.host} sends {what} on to another address ({status}): check RUNPOD_API_URL."
        case _:
            return f"RunPod answered {status} to {what}{said}."
