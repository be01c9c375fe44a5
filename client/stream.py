"""An answer while it arrives: an async iterable of text that knows the rest when it ends."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, NoReturn

from client.answer import Answer, CutShort, NotAnAnswer, ProblemFound
from client.deadline import Deadline, DeadlinePassed
from client.errors import (
    BadRequestError,
    LLMError,
    ModelNotFoundError,
    StreamInterruptedError,
    UnexpectedResponseError,
)
from client.failures import from_exception, from_problem, hide_keys, readable, timed_out
from client.masking import quote
from client.retry import may_fall_back, may_send_again, pause
from client.source import open_source
from client.sse import EVENT_LIMIT, EventDecoder, EventTooLargeError
from client.stats import Stats

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from types import TracebackType

    from client.chunk import Usage
    from client.endpoint import Endpoint
    from client.errors import Phase
    from client.settings import ClientSettings
    from client.source import Source

logger = logging.getLogger(__name__)

# After the finish reason only the usage and [DONE] are due: a server that owes them holds nobody up for longer.
_LAST_WORDS_S = 2.0
_DRAIN_S = 0.1
_EVENT_FIELDS = (b"data", b"event", b":", b"id", b"retry")
_NAMED_MODELS = 20


class TextStream:
    """Iterate over the pieces of text of one answer, as they arrive.

    The request is sent when the iteration (or `async with`) begins. `async with` closes the connection on the way out,
    however that is taken, and so stops the server's work. The attributes are complete once the iteration has ended.
    Raises LLMError, with the text so far in `partial`.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        prepare: Callable[[Endpoint], dict[str, Any]],
        settings: ClientSettings,
        slots: Callable[[], asyncio.Semaphore | None],
    ) -> None:
        self._endpoints = endpoints
        self._endpoint = endpoints[0]
        self._prepare = prepare
        self._settings = settings
        self._find_slots = slots
        self._slots: asyncio.Semaphore | None = None
        self._holds_slot = False
        self._answer = Answer()
        self._source: Source | None = None
        self._objects: AsyncIterator[Any] | None = None
        self._decoder: EventDecoder | None = None
        self._body: list[bytes] | None = None
        self._body_size = 0
        self._is_event_type = False
        self._status: int | None = None
        self._request_id: str | None = None
        self._model = ""
        self._retries = 0
        self._failure: LLMError | None = None
        self._ended = False  # nothing more will arrive
        self._closed = False
        self._deadline: Deadline | None = None
        self._due: float | None = None
        self._phase: Phase = "first_token"
        self._began = self._first_due = 0.0
        self._total_due: float | None = None
        self._first_at: float | None = None
        self._last_at = 0.0

    @property
    def text(self) -> str:
        """Return the text so far."""
        return self._answer.text

    @property
    def finish_reason(self) -> str | None:
        """Return why the answer ended: "stop", "length", "tool_calls", ...; None while it has not."""
        return self._answer.finish_reason

    @property
    def usage(self) -> Usage | None:
        """Return the tokens that the server counted, or None where it did not say."""
        return self._answer.usage

    @property
    def request_id(self) -> str | None:
        """Return the server's id of the request (header `x-request-id`, else the completion's id), or None."""
        return self._request_id or self._answer.id

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """Return the tool calls, in the shape that an assistant message takes."""
        return self._answer.tool_calls

    @property
    def reasoning(self) -> str:
        """Return the reasoning so far, "" for models that show none."""
        return "".join(self._answer.reasoning)

    @property
    def stats(self) -> Stats:
        """Return the figures so far."""
        first = self._first_at
        usage = self._answer.usage
        counted = usage.completion_tokens if usage else 0
        return Stats(
            time_to_first_token=None if first is None else first - self._began,
            duration=max(self._last_at - self._began, 0.0),
            tokens=counted or self._answer.pieces,
            estimated=not counted,
            endpoint=self._endpoint.name,
            model=self._model,
            retries=self._retries,
        )

    def __aiter__(self) -> TextStream:
        """Return the stream itself: it can be iterated over once."""
        return self

    async def __anext__(self) -> str:
        """Return the next piece of text. Raises LLMError."""
        ready = self._answer.ready
        if ready:
            return ready.popleft()
        if self._closed:
            raise StopAsyncIteration
        try:
            if self._deadline is None:
                await self._open()
                ready = self._answer.ready  # a fallback begins a new one
            while not ready:
                if self._ended:
                    await self._end()
                await self._pump()
        except BaseException:
            await self.aclose()
            raise
        return ready.popleft()

    async def __aenter__(self) -> TextStream:
        """Return the stream."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection, which stops the server's work; does nothing once the answer has ended."""
        self._closed = True
        self._answer.ready.clear()
        if self._deadline is not None:
            self._deadline.close()
        self._release_slot()
        await self._close_source()

    def __del__(self) -> None:
        """Close the connection of a stream that was dropped."""
        source, deadline = self._source, self._deadline
        if self._closed or deadline is None or deadline.loop.is_closed():
            return
        if source is not None:
            deadline.loop.call_soon_threadsafe(source.drop)
        if self._holds_slot and self._slots is not None:
            deadline.loop.call_soon_threadsafe(self._slots.release)
        deadline.loop.call_soon_threadsafe(deadline.close)

    async def _open(self) -> None:
        """Ask the endpoints in turn until one begins an answer, or fails in a way that the next will not mend."""
        loop = asyncio.get_running_loop()
        deadline = self._deadline = Deadline(loop)
        self._began = self._last_at = loop.time()
        if self._settings.total_timeout is not None:
            self._total_due = self._began + self._settings.total_timeout
        self._slots = self._find_slots()
        if self._slots is not None:
            try:
                with deadline.until(self._total_due, "total"):
                    await self._slots.acquire()
            except DeadlinePassed as passed:
                self._time_out(passed)
                return
            self._holds_slot = True
        for number, endpoint in enumerate(self._endpoints, 1):
            self._endpoint = endpoint
            self._first_due = loop.time() + endpoint.first_token_timeout
            self._due = None
            await self._ask(endpoint)
            while not (self._answer.progressed or self._first_at or self._failure or self._ended):
                await self._pump()
            failure = self._failure
            if failure is None or self._first_at is not None:
                return
            if number == len(self._endpoints) or not may_fall_back(failure):
                if isinstance(failure, BadRequestError) and failure.status in (400, 404):
                    self._failure = await self._name_models(failure)
                return
            logger.warning(
                "%s failed (%s): asking %s", endpoint.name, type(failure).__name__, self._endpoints[number].name
            )
            await self._close_source()
            self._answer, self._failure, self._ended = Answer(), None, False

    async def _ask(self, endpoint: Endpoint) -> None:
        """Send the request, again where that may help, until there is something to read or `_failure` is set."""
        assert self._deadline is not None
        await endpoint.enter_loop()
        kwargs = self._prepare(endpoint)
        self._model = kwargs["model"]
        attempt = 0
        while True:
            self._set_due()
            try:
                with self._deadline.until(self._due, self._phase):
                    answered = endpoint.client.chat.completions.create(**kwargs)
                    if hasattr(type(answered), "__await__"):
                        answered = await answered
            except DeadlinePassed as passed:
                self._time_out(passed)
                return
            except Exception as error:
                failure = from_exception(error, endpoint)
                if failure is None:
                    raise
                failure.__cause__ = error
            else:
                self._take(answered)
                return
            if isinstance(failure, BadRequestError) and "stream_options" in str(failure) and "stream_options" in kwargs:
                del kwargs["stream_options"]  # a strict server: no usage, then
                continue
            seconds = pause(attempt, failure)
            due = self._due
            if (
                attempt >= self._settings.max_retries
                or not may_send_again(failure)
                or (due is not None and self._deadline.time() + seconds >= due)
            ):
                self._fail(failure, failure.__cause__)
                return
            attempt += 1
            self._retries += 1
            logger.info("%s: %s; sent again in %.1f s", endpoint.name, type(failure).__name__, seconds)
            await asyncio.sleep(seconds)

    def _take(self, answered: Any) -> None:
        """Find out what `create` returned: the SDK's stream, which we decode ourselves, or what a test put there."""
        from openai import AsyncStream

        if isinstance(answered, AsyncStream):
            self._source = open_source(answered)
            self._decoder = EventDecoder()
            self._is_event_type = "event-stream" in answered.response.headers.get("content-type", "").lower()
            self._status = answered.response.status_code
            self._request_id = answered.response.headers.get("x-request-id")
            return
        # A whole completion: told by its text, since a mock has every attribute, and `__aiter__` too.
        message = _first_message(answered)
        content = getattr(message, "content", None)
        if isinstance(content, str) or not hasattr(type(answered), "__aiter__"):
            self._answer.add_message(message)
            self._mark()
            self._ended = True
        else:
            self._objects = aiter(answered)

    async def _pump(self) -> None:
        """Wait for the next bytes (or object) and take what they bring."""
        deadline = self._deadline
        assert deadline is not None
        if self._due is None:
            self._set_due()
        try:
            with deadline.until(self._due, self._phase):
                if self._source is not None:
                    data = await self._source.read()
                else:
                    assert self._objects is not None
                    chunk = await anext(self._objects)
        except DeadlinePassed as passed:
            if self._answer.finish_reason is not None:
                self._ended = True
            else:
                self._time_out(passed)
            return
        except StopAsyncIteration:
            self._ended = True
            return
        except Exception as error:
            self._break_off(error)
            return
        try:
            if self._source is None:
                self._answer.add_object(chunk)
            elif data:
                self._take_bytes(data)
            else:
                self._take_end()
        except ProblemFound as found:
            self._fail(from_problem(found.problem, self._endpoint), None)
        except NotAnAnswer as found:
            self._fail(self._unexpected(found.what, found.quoted), found.__context__)
        except CutShort as error:
            self._break_off(error)
        except EventTooLargeError as error:
            self._fail(self._unexpected(f"more than {EVENT_LIMIT} bytes in one piece"), error)
        if self._answer.progressed:
            self._mark()

    def _take_bytes(self, data: bytes) -> None:
        if self._body is None:
            decoder = self._decoder
            assert decoder is not None
            if decoder.started or self._is_events(data):
                answer = self._answer
                for event in decoder.feed(data):
                    answer.add(event)
                    if answer.done:
                        self._ended = True
                        return
                return
            self._body = []
        self._body.append(data)
        self._body_size += len(data)
        if self._body_size > EVENT_LIMIT:
            raise EventTooLargeError

    def _is_events(self, data: bytes) -> bool:
        """Tell by the first bytes whether a body is a stream of events, whatever its type says."""
        head = data.removeprefix(b"\xef\xbb\xbf").lstrip()
        if self._is_event_type:
            return head[:1] not in (b"{", b"[", b"<")
        return bool(head) and (head.startswith(_EVENT_FIELDS) or any(field.startswith(head) for field in _EVENT_FIELDS))

    def _take_end(self) -> None:
        self._ended = True
        if self._body is not None:
            self._answer.add_whole(b"".join(self._body))
            return
        assert self._decoder is not None
        for event in self._decoder.finish():
            try:
                self._answer.add(event)
            except NotAnAnswer:
                break  # cut in the middle of an event
        if self._answer.finish_reason is None and not self._answer.done:
            if not self._decoder.started and not self._is_event_type:
                raise NotAnAnswer("an empty body")
            self._break_off(None)

    def _mark(self) -> None:
        """Note that a piece of the answer has arrived."""
        assert self._deadline is not None
        self._answer.progressed = False
        self._due = None
        self._last_at = self._deadline.time()
        if self._first_at is None:
            self._first_at = self._last_at

    def _set_due(self) -> None:
        """Set when the coming wait must have brought a piece of the answer: nothing else postpones it."""
        assert self._deadline is not None
        if self._first_at is None:
            due, self._phase = self._first_due, "first_token"
        else:
            idle = self._settings.idle_timeout
            if self._answer.finish_reason is not None:
                idle = min(idle, _LAST_WORDS_S)
            due, self._phase = self._deadline.time() + idle, "idle"
        if self._total_due is not None and self._total_due < due:
            due, self._phase = self._total_due, "total"
        self._due = due

    def _time_out(self, passed: DeadlinePassed) -> None:
        seconds = {
            "first_token": self._endpoint.first_token_timeout,
            "idle": self._settings.idle_timeout,
            "total": self._settings.total_timeout,
        }.get(passed.phase)
        self._fail(timed_out(passed.phase, seconds, self._endpoint), passed)

    def _break_off(self, error: Exception | None) -> None:
        """Take the end of the connection before the end of the answer."""
        if self._source is None and error is not None and not isinstance(error, CutShort):  # a test's iterator
            failure = error if isinstance(error, LLMError) else from_exception(error, self._endpoint)
            if failure is None:
                raise error
            self._fail(failure, error.__cause__ if failure is error else error)
            return
        if self._answer.finish_reason is not None:
            self._ended = True  # the answer itself is whole
            return
        if error is not None:
            hide_keys(error, self._endpoint.keys)
        how = (
            f"broke off ({quote(str(error), self._endpoint.keys) or type(error).__name__})" if error else "ended early"
        )
        self._fail(StreamInterruptedError(f"The answer of {self._endpoint.name} {how}.", status=self._status), error)

    def _unexpected(self, what: str, quoted: str = "") -> LLMError:
        said = f": {quote(readable(quoted), self._endpoint.keys)}" if quoted else ""
        hint = f" Check {self._endpoint.variable('BASE_URL')}." if self._first_at is None else ""
        return UnexpectedResponseError(f"{self._endpoint.name} sent {what}{said}.{hint}", status=self._status)

    def _fail(self, failure: LLMError, cause: BaseException | None) -> None:
        failure.partial = self._answer.text
        failure.request_id = failure.request_id or self.request_id
        failure.__cause__ = cause
        self._failure = failure
        self._ended = True

    async def _name_models(self, failure: BadRequestError) -> BadRequestError:
        """Return a "not found" with the models that the server has; as it is where they cannot be learnt."""
        if failure.status != 404 and not isinstance(failure, ModelNotFoundError):
            return failure
        try:
            models = await self._endpoint.list_models()
        except Exception as error:
            logger.debug("No list of models from %s: %s", self._endpoint.name, type(error).__name__)
            return failure
        if not models or self._model in models:
            return failure
        names = ", ".join(quote(model, self._endpoint.keys) for model in models[:_NAMED_MODELS])
        told = ModelNotFoundError(
            f"{failure} The server has: {names}. Set {self._endpoint.variable('MODEL')} to one of them.",
            status=failure.status,
            request_id=failure.request_id,
        )
        told.__cause__ = failure.__cause__
        return told

    async def _end(self) -> NoReturn:
        """Raise what the iteration ends with, after the last bytes were read: the connection can serve again."""
        if self._failure is not None:
            raise self._failure
        source = self._source
        if source is not None and not source.at_end and self._deadline is not None:
            try:
                with self._deadline.until(self._deadline.time() + _DRAIN_S, "idle"):
                    while await source.read():
                        pass
            except Exception as error:
                logger.debug("%s left the connection open (%s)", self._endpoint.name, type(error).__name__)
        raise StopAsyncIteration

    async def _close_source(self) -> None:
        source, self._source = self._source, None
        objects, self._objects = self._objects, None
        if source is not None:
            try:
                await source.close()
            except Exception as error:
                logger.debug("Closing a connection to %s: %s", self._endpoint.name, type(error).__name__)
        elif hasattr(type(objects), "aclose"):
            await objects.aclose()  # type: ignore[union-attr]

    def _release_slot(self) -> None:
        if self._holds_slot and self._slots is not None:
            self._holds_slot = False
            self._slots.release()


def _first_message(answered: Any) -> Any:
    try:
        return answered.choices[0].message
    except (AttributeError, IndexError, TypeError, KeyError):
        return None
