"""An event loop in a thread of its own, for those who do not await."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import weakref
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, TypeVar

from client.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Future

    T = TypeVar("T")

_AT_EXIT_S = 5.0


class LoopThread:
    """A loop in a thread that starts with the first `run` and ends with `end`, or with the interpreter.

    `aclose` is awaited there at the end. Any thread may call.
    """

    def __init__(self, aclose: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._aclose = aclose
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._process = os.getpid()
        self._ended = False

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return what `coroutine` returns, or raise what it raises. Interrupting the wait cancels it.

        Raises ConfigurationError where nothing can be run.
        """
        try:
            future = self._submit(coroutine)
        except BaseException:
            coroutine.close()
            raise
        try:
            return future.result()
        except CancelledError:
            raise ConfigurationError("This LLMClient was closed while it was in use.") from None
        except BaseException:
            future.cancel()
            raise

    def end(self, wait: float | None = None) -> None:
        """Close, and end the thread; what runs there is cancelled. Waits for that, at most `wait` seconds."""
        if self._process != os.getpid():
            return  # a process that was forked off: thread and connections are the parent's
        with self._lock:
            ended, self._ended = self._ended, True
            if self._loop is None or self._thread is None:
                return
            if not ended:
                asyncio.run_coroutine_threadsafe(_close(self._aclose), self._loop)
        if self._thread is not threading.current_thread():
            self._thread.join(wait)

    def _submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        if self._thread is threading.current_thread():
            raise ConfigurationError("A callback of an LLMClient cannot wait for that client: use another thread.")
        if self._process != os.getpid():
            if self._thread is not None:
                raise ConfigurationError("This LLMClient was used before a fork: make one in each process.")
            self._process = os.getpid()
        with self._lock:
            if self._ended:
                raise ConfigurationError("This LLMClient is closed: make a new one, or close it later.")
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop or self._start())

    def _start(self) -> asyncio.AbstractEventLoop:
        loop = self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_serve, args=(loop,), name="LLMClient", daemon=True)
        self._thread.start()
        _started.add(self)
        return loop


# Weak: a client that is gone has ended its thread.
_started: weakref.WeakSet[LoopThread] = weakref.WeakSet()


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:  # which cancels what is left, and closes the loop
        runner.get_loop().run_forever()


async def _close(aclose: Callable[[], Coroutine[Any, Any, None]]) -> None:
    try:
        await aclose()
    finally:
        asyncio.get_running_loop().stop()


@atexit.register
def _end_all() -> None:
    for thread in list(_started):
        thread.end(_AT_EXIT_S)
