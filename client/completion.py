"""A whole answer, with all that the server said about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from client._wire.chunk import Usage
    from client.stats import Stats


@dataclass(frozen=True)
class Completion:
    """A whole answer; `str()` of it is its text.

    `finish_reason` is "stop", "length" (cut at max_tokens), "tool_calls", ... or None where the server gave none.
    `refusal` is what the model said in refusing, else None; `text` holds it too.
    `tool_calls` are in the shape that an assistant message takes; `reasoning` is "" for models that show none.
    `logprobs` holds one entry for each token, in the API's shape, or None where none were asked for.
    `request_id` is the server's (header `x-request-id`, else the completion's id).
    """

    text: str
    finish_reason: str | None
    usage: Usage | None
    tool_calls: list[dict[str, Any]]
    refusal: str | None
    reasoning: str
    logprobs: list[dict[str, Any]] | None
    request_id: str | None
    stats: Stats

    def __str__(self) -> str:
        return self.text
