"""One timer per stream, however many tokens it has.

`asyncio.timeout` around each token would make and cancel a timer for each. Here the timer stays as it is while tokens
arrive: when it fires too early it is set again. It interrupts the waiting task the way `asyncio.timeout` does, and only
while that task waits for the server: the caller's own time between two tokens is his.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from client.errors import Phase


class DeadlinePassed(Exception):
    """The wait ran into the deadline of `phase`."""

    def __init__(self, phase: Phase) -> None:
        super().__init__(phase)
        self.phase: Phase = phase


class Deadline:
    """Interrupts waits that go on for too long: `with deadline.until(when, phase): await ...`.

    Raises DeadlinePassed from the block. It holds no reference to the stream, so a stream that is dropped is freed.
    """

    __slots__ = ("_cancelling", "_handle", "_passed", "_phase", "_task", "_when", "loop", "time")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.time = loop.time
        self._handle: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._when: float | None = None
        self._phase: Phase = "total"
        self._passed = False
        self._cancelling = 0

    def until(self, when: float | None, phase: Phase) -> Deadline:
        """Set the loop time at which the coming wait ends, or None for never."""
        self._when = when
        self._phase = phase
        return self

    def __enter__(self) -> None:
        when = self._when
        if when is None:
            return
        task = self._task = asyncio.current_task()
        assert task is not None
        self._cancelling = task.cancelling()
        handle = self._handle
        if handle is None or when < handle.when():
            if handle is not None:
                handle.cancel()
            self._handle = self.loop.call_at(when, self._fire)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if not self._passed:
            return
        self._passed = False
        assert task is not None
        if task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise DeadlinePassed(self._phase) from error

    def close(self) -> None:
        """Drop the timer."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _fire(self) -> None:
        self._handle = None
        if self._task is None or self._when is None:
            return  # nobody waits; the next wait sets a timer of its own
        if self.loop.time() < self._when:
            self._handle = self.loop.call_at(self._when, self._fire)
        else:
            self._passed = True
            self._task.cancel()
