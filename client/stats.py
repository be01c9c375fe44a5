"""How an answer went."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stats:
    """The figures of one answer.

    `time_to_first_token` is in seconds from the call, retries and waiting included, None while nothing has arrived.
    `duration` is in seconds from the call to the last piece.
    `tokens` is the server's count, or, where it sent none, the number of pieces (`estimated`).
    `tokens_per_second` leaves the wait for the first token out.
    `endpoint` and `model` say which one answered; `retries` how often the request was sent again.
    """

    time_to_first_token: float | None
    duration: float
    tokens: int
    estimated: bool
    endpoint: str
    model: str
    retries: int = 0

    @property
    def tokens_per_second(self) -> float:
        """Return the tokens after the first by the seconds since it; of an answer in one piece, all by `duration`."""
        if self.time_to_first_token is None:
            return 0.0
        seconds = self.duration - self.time_to_first_token
        if self.tokens > 1 and seconds > 0:
            return (self.tokens - 1) / seconds
        return self.tokens / self.duration if self.duration > 0 else 0.0
