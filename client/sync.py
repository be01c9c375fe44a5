"""The client for code that does not await: scripts, notebooks, threads. `from client.sync import LLMClient`.

    with LLMClient() as client:
        print(client.generate([{"role": "user", "content": "What is the capital of France?"}]))

It is `client.LLMClient` on an event loop in a thread of its own, which starts with the first request and ends with
`close()`, with the client itself, or with the interpreter. Threads may share a client, and a running event loop (a
notebook's) does not matter to it. Ctrl-C and leaving a stream stop the server's work. A client that was used before a
fork cannot be used after it: make one in each process.
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import os
import threading
import weakref
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from client.errors import ConfigurationError
from client.llm import LLMClient as AsyncClient
from client.stream import TextStream as AsyncStream

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping
    from concurrent.futures import Future
    from types import TracebackType

    from openai import NotGiven, Omit
    from pydantic import BaseModel

    from client.completion import Completion

    Omitted = Omit | NotGiven
    ModelT = TypeVar("ModelT", bound=BaseModel)

P = ParamSpec("P")
A = TypeVar("A")
T = TypeVar("T")
F = TypeVar("F", bound="Callable[..., object]")

_AT_EXIT_S = 5.0


class _Of(Generic[A, T]):
    """An attribute of the asynchronous object behind this one, of the type that `get` returns."""

    def __init__(self, get: Callable[[A], T]) -> None:
        self._get = get

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> T:
        return self._get(instance._behind)

    def __set__(self, instance: Any, value: T) -> None:
        setattr(instance._behind, self._name, value)


class _OfStream(_Of[AsyncStream, T]): ...


class _OfClient(_Of[AsyncClient, T]): ...


def _looks_like(source: Callable[..., object]) -> Callable[[F], F]:
    """Show a method with the parameters and the documentation of `source`."""

    def show(method: F) -> F:
        shown: Any = method
        shown.__doc__ = source.__doc__
        returned = inspect.signature(method).return_annotation
        shown.__signature__ = inspect.signature(source).replace(return_annotation=returned)
        return method

    return show


def _takes(
    source: Callable[Concatenate[AsyncClient, P], object],
) -> Callable[[Callable[..., T]], Callable[Concatenate[LLMClient, P], T]]:
    """Give a method the parameters of `source`, for type checkers too."""
    return _looks_like(source)


class TextStream:
    """`client.TextStream` without awaiting: iterate over it once; `with` closes the connection on the way out."""

    text = _OfStream(lambda stream: stream.text)
    finish_reason = _OfStream(lambda stream: stream.finish_reason)
    usage = _OfStream(lambda stream: stream.usage)
    request_id = _OfStream(lambda stream: stream.request_id)
    tool_calls = _OfStream(lambda stream: stream.tool_calls)
    reasoning = _OfStream(lambda stream: stream.reasoning)
    refusal = _OfStream(lambda stream: stream.refusal)
    logprobs = _OfStream(lambda stream: stream.logprobs)
    completion = _OfStream(lambda stream: stream.completion)
    stats = _OfStream(lambda stream: stream.stats)

    def __init__(self, behind: AsyncStream, client: LLMClient) -> None:
        self._behind = behind
        self._client = client

    def __iter__(self) -> Self:
        """Return the stream itself."""
        return self

    def __next__(self) -> str:
        """Return the next piece of text. Raises LLMError."""
        piece = self._client._run(_next(self._behind))
        if piece is None:
            raise StopIteration
        return piece

    def __enter__(self) -> Self:
        """Return the stream."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection, which stops the server's work; does nothing once the answer has ended."""
        with suppress(ConfigurationError):  # closed with its client
            self._client._run(self._behind.aclose())


class LLMClient:
    """`client.LLMClient` without awaiting: the same arguments, settings, attributes, methods and errors."""

    model = _OfClient(lambda client: client.model)
    max_tokens = _OfClient(lambda client: client.max_tokens)
    temperature = _OfClient(lambda client: client.temperature)
    base_url = _OfClient(lambda client: client.base_url)

    @_takes(AsyncClient.__init__)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._set_up(AsyncClient(*args, **kwargs))

    @classmethod
    def over(cls, client: AsyncClient) -> Self:
        """Return a client in front of `client`, which nothing else uses: `client.testing.FakeLLMClient`, in tests."""
        made = cls.__new__(cls)
        made._set_up(client)
        return made

    def _set_up(self, client: AsyncClient) -> None:
        self._behind = client
        self._thread = _LoopThread(client.aclose)
        self._run = self._thread.run
        weakref.finalize(self, self._thread.end, wait=0).atexit = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r}, model={self.model!r})"

    @_takes(AsyncClient.stream)  # type: ignore[arg-type] # an option named "self"
    def stream(self, *args: Any, **kwargs: Any) -> TextStream:
        return TextStream(self._behind.stream(*args, **kwargs), self)

    @_takes(AsyncClient.generate_streaming)  # type: ignore[arg-type]
    def generate_streaming(self, *args: Any, **kwargs: Any) -> Generator[str, None, None]:
        with self.stream(*args, **kwargs) as stream:
            yield from stream

    @overload
    def generate(
        self,
        messages: Iterable[Mapping[str, Any]],
        max_tokens: int | Omitted | None = None,
        temperature: float | Omitted | None = None,
        *,
        response_model: None = None,
        **options: Any,
    ) -> str: ...

    @overload
    def generate(
        self,
        messages: Iterable[Mapping[str, Any]],
        max_tokens: int | Omitted | None = None,
        temperature: float | Omitted | None = None,
        *,
        response_model: type[ModelT],
        **options: Any,
    ) -> ModelT: ...

    @_looks_like(AsyncClient.generate)
    def generate(self, *args: Any, **kwargs: Any) -> str | BaseModel:
        answer: str | BaseModel = self._run(self._behind.generate(*args, **kwargs))
        return answer

    @_takes(AsyncClient.complete)  # type: ignore[arg-type]
    def complete(self, *args: Any, **kwargs: Any) -> Completion:
        return self._run(self._behind.complete(*args, **kwargs))

    @_takes(AsyncClient.embeddings)  # type: ignore[arg-type]
    def embeddings(self, *args: Any, **kwargs: Any) -> list[list[float]]:
        return self._run(self._behind.embeddings(*args, **kwargs))

    @_takes(AsyncClient.models)
    def models(self, *args: Any, **kwargs: Any) -> list[str]:
        return self._run(self._behind.models(*args, **kwargs))

    @_takes(AsyncClient.wait_until_ready)
    def wait_until_ready(self, *args: Any, **kwargs: Any) -> None:
        self._run(self._behind.wait_until_ready(*args, **kwargs))

    def close(self) -> None:
        """Close the connections and end the thread; the client cannot be used afterwards."""
        self._thread.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def _next(stream: AsyncStream) -> str | None:
    return await anext(stream, None)


class _LoopThread:
    """An event loop in a thread that starts with the first `run` and ends with `end`, or with the interpreter.

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
_started: weakref.WeakSet[_LoopThread] = weakref.WeakSet()


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    runner = asyncio.Runner(loop_factory=lambda: loop)
    try:
        runner.get_loop().run_forever()
    finally:
        # Python 3.12.0 and 3.12.1 start no thread while the interpreter ends, not even to end others (cpython#113964).
        with suppress(RuntimeError):
            runner.close()  # which cancels what is left, and closes the loop


async def _close(aclose: Callable[[], Coroutine[Any, Any, None]]) -> None:
    try:
        await aclose()
    finally:
        asyncio.get_running_loop().stop()


@atexit.register
def _end_all() -> None:
    for thread in list(_started):
        thread.end(_AT_EXIT_S)
