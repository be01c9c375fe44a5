"""What can go wrong while deploying, as one tree, under the serving side's root.

ServingError
└── DeployError          1   one sentence that says what was refused and what to do
    ├── ApiError         1   RunPod answered with an error; `status`, and the fields at fault
    ├── Unreachable      1   no answer at all, or none in time
    └── Declined         2   a question was answered with no, or nobody was there to answer it
"""

from __future__ import annotations

from serving.errors import ServingError


class DeployError(ServingError):
    """Be the root of what goes wrong while deploying."""


class ApiError(DeployError):
    """Report that RunPod answered with an error.

    `status` is the HTTP status; `errors` holds the single complaints, each naming a field;
    `retry_after` is the wait that was asked for, in seconds.
    """

    def __init__(
        self, message: str, status: int, errors: tuple[str, ...] = (), retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.errors = errors
        self.retry_after = retry_after


class Unreachable(DeployError):
    """Report that no answer came, or none in time; `late`: the request arrived and may still be worked on."""

    def __init__(self, message: str, *, late: bool = False) -> None:
        super().__init__(message)
        self.late = late


class Declined(DeployError):
    """Report that a question was answered with no, or that nobody was there to answer it."""

    exit_status = 2
