"""One request to one endpoint, from sending it to the last byte of its answer."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from client._wire.answer import Answer, CutShort, NotAnAnswer, ProblemFound
from client._wire.body import Body
from client._wire.byte_source import open_source
from client._wire.deadline import DeadlinePassed
from client._wire.error_mapping import from_exception, from_problem, hide_keys, readable, timed_out
from client._wire.masking import quote
from client._wire.request import lightened
from client._wire.retry import may_send_again, pause
from client.errors import BadRequestError, LLMError, ModelNotFoundError, StreamInterruptedError, UnexpectedResponseError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from client._wire.byte_source import Source
    from client._wire.deadline import Deadline
    from client._wire.endpoint import Endpoint
    from client.errors import Phase
    from client.settings import ClientSettings

logger = logging.getLogger(__name__)

# After the finish reason only the usage and [DONE] are due: a server that owes them holds nobody up for longer.
_LAST_WORDS_S = 2.0
_DRAIN_S = 0.1
_NAMED_MODELS = 20


class Exchange:
    """Hold one request and what has come of it.

    `ended` tells that nothing more will arrive, `failure` why if that is a failure. Times are the event loop's.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        arguments: dict[str, Any],
        settings: ClientSettings,
        deadline: Deadline,
        total_due: float | None,
    ) -> None:
        self.endpoint = endpoint
        self.model: str = arguments["model"]
        self.answer = Answer()
        self.failure: LLMError | None = None
        self.ended = False
        self.retries = 0
        self.first_at: float | None = None
        self.last_at = deadline.time()
        self._request_id: str | None = None
        self._status: int | None = None
        self._arguments = arguments
        self._settings = settings
        self._deadline = deadline
        self._first_due = self.last_at + endpoint.first_token_timeout
        self._total_due = total_due
        self._due: float | None = None
        self._phase: Phase = "first_token"
        self._source: Source | None = None
        self._body: Body | None = None
        self._objects: AsyncIterator[Any] | None = None

    @property
    def request_id(self) -> str | None:
        """Return the server's id of the request: the header `x-request-id`, else the completion's id."""
        return self._request_id or self.answer.id

    async def ask(self) -> None:
        """Send the request, again where that may help, until there is something to read or a failure."""
        await self.endpoint.enter_loop()
        attempt = 0
        while True:
            self._set_due()
            try:
                with self._deadline.until(self._due, self._phase):
                    create = self.endpoint.client.chat.completions.create
                    answered = create(**lightened(self._arguments, create))
                    if hasattr(type(answered), "__await__"):
                        answered = await answered
            except DeadlinePassed as passed:
                self._time_out(passed)
                return
            except Exception as error:
                failure = from_exception(error, self.endpoint)
                if failure is None:
                    raise
                failure.__cause__ = error
            else:
                self._take(answered)
                return
            strict = isinstance(failure, BadRequestError) and "stream_options" in str(failure)
            if strict and self._arguments.pop("stream_options", None):
                continue  # no usage, then
            seconds = pause(attempt, failure)
            too_late = self._due is not None and self._deadline.time() + seconds >= self._due
            if attempt >= self._settings.max_retries or not may_send_again(failure) or too_late:
                self._fail(failure, failure.__cause__)
                return
            attempt += 1
            self.retries += 1
            logger.info("%s: %s; sent again in %.1f s", self.endpoint.name, type(failure).__name__, seconds)
            await asyncio.sleep(seconds)

    async def pump(self) -> None:
        """Wait for the next bytes (or object) and take what they bring."""
        if self._due is None:
            self._set_due()
        try:
            with self._deadline.until(self._due, self._phase):
                if self._source is not None:
                    data = await self._source.read()
                else:
                    assert self._objects is not None
                    chunk = await anext(self._objects)
        except DeadlinePassed as passed:
            self._time_out(passed)
            return
        except StopAsyncIteration:
            self.ended = True
            return
        except Exception as error:
            self._break_off(error)
            return
        try:
            if self._body is None:
                self.answer.add_object(chunk)
            elif data:
                self._body.take(data)
            elif self._body.end():
                self.ended = True
            else:
                self._interrupt(None)
        except ProblemFound as found:
            self._fail(from_problem(found.problem, self.endpoint), None)
        except NotAnAnswer as found:
            self._fail(self._unexpected(found.what, found.quoted), found.__context__)
        except CutShort as error:
            self._interrupt(error)
        if self.answer.done:
            self.ended = True
        if self.answer.progressed:
            self._mark()

    async def drain(self) -> None:
        """Read the last bytes after the answer, so that the connection can serve again."""
        source = self._source
        if source is None or source.at_end:
            return
        try:
            with self._deadline.until(self._deadline.time() + _DRAIN_S, "idle"):
                while await source.read():
                    pass
        except Exception as error:
            logger.debug("%s left the connection open (%s)", self.endpoint.name, type(error).__name__)

    async def close(self) -> None:
        """Close the connection, or give it back if all was read."""
        source, self._source = self._source, None
        objects, self._objects = self._objects, None
        if source is not None:
            try:
                await source.close()
            except Exception as error:
                logger.debug("Closing a connection to %s: %s", self.endpoint.name, type(error).__name__)
        elif hasattr(type(objects), "aclose"):
            await objects.aclose()  # type: ignore[union-attr]

    def drop(self) -> None:
        """Close the connection as far as that is possible without awaiting."""
        if self._source is not None:
            self._source.drop()

    async def name_models(self) -> None:
        """Add to a "not found" the models that the server has; where they cannot be learnt it stays as it is."""
        failure = self.failure
        if not isinstance(failure, BadRequestError) or not (
            failure.status == 404 or isinstance(failure, ModelNotFoundError)
        ):
            return
        try:
            models = await self.endpoint.list_models()
        except Exception as error:
            logger.debug("No list of models from %s: %s", self.endpoint.name, type(error).__name__)
            return
        if not models or self.model in models:
            return
        names = ", ".join(quote(model, self.endpoint.keys) for model in models[:_NAMED_MODELS])
        told = ModelNotFoundError(
            f"{failure} The server has: {names}. Set {self.endpoint.variable('MODEL')} to one of them.",
            status=failure.status,
        )
        self._fail(told, failure.__cause__, failure.request_id)

    def _take(self, answered: Any) -> None:
        """Find out what `create` returned: the SDK's stream, which we decode ourselves, or what a test put there."""
        from openai import AsyncStream  # loaded on first use

        if issubclass(type(answered), AsyncStream):  # not isinstance: a mock with a spec would pass for one
            headers = answered.response.headers
            self._source = open_source(answered)
            self._body = Body(self.answer, typed="event-stream" in headers.get("content-type", "").lower())
            self._status = answered.response.status_code
            self._request_id = headers.get("x-request-id")
            return
        # A whole completion is told by its text: a mock has every attribute, and `__aiter__` too.
        message = _first_message(answered)
        if isinstance(getattr(message, "content", None), str) or not hasattr(type(answered), "__aiter__"):
            self.answer.add_message(message)
            self._mark()
            self.ended = True
        else:
            self._objects = aiter(answered)

    def _mark(self) -> None:
        """Note that a piece of the answer has arrived."""
        self.answer.progressed = False
        self._due = None
        self.last_at = self._deadline.time()
        if self.first_at is None:
            self.first_at = self.last_at

    def _set_due(self) -> None:
        """Set when the coming wait must have brought a piece of the answer: nothing else postpones it."""
        if self.first_at is None:
            due, self._phase = self._first_due, "first_token"
        else:
            idle = self._settings.idle_timeout
            if self.answer.finish_reason is not None:
                idle = min(idle, _LAST_WORDS_S)
            due, self._phase = self._deadline.time() + idle, "idle"
        if self._total_due is not None and self._total_due < due:
            due, self._phase = self._total_due, "total"
        self._due = due

    def _time_out(self, passed: DeadlinePassed) -> None:
        if self.answer.finish_reason is not None:
            self.ended = True  # the answer itself is whole
            return
        seconds = {
            "first_token": self.endpoint.first_token_timeout,
            "idle": self._settings.idle_timeout,
            "total": self._settings.total_timeout,
        }.get(passed.phase)
        self._fail(timed_out(passed.phase, seconds, self.endpoint), passed)

    def _break_off(self, error: Exception) -> None:
        """Take an error that the reading raised."""
        if self._source is not None:
            self._interrupt(error)
            return
        failure = error if isinstance(error, LLMError) else from_exception(error, self.endpoint)
        if failure is None:
            raise error  # a test's own
        self._fail(failure, error.__cause__ if failure is error else error)

    def _interrupt(self, error: Exception | None) -> None:
        """Take the end of the connection before the end of the answer."""
        if self.answer.finish_reason is not None:
            self.ended = True  # the answer itself is whole
            return
        how = "ended early"
        if error is not None:
            hide_keys(error, self.endpoint.keys)
            how = f"broke off ({quote(str(error), self.endpoint.keys) or type(error).__name__})"
        self._fail(StreamInterruptedError(f"The answer of {self.endpoint.name} {how}.", status=self._status), error)

    def _unexpected(self, what: str, quoted: str) -> LLMError:
        said = f": {quote(readable(quoted), self.endpoint.keys)}" if quoted else ""
        hint = f" Check {self.endpoint.variable('BASE_URL')}." if self.first_at is None else ""
        return UnexpectedResponseError(f"{self.endpoint.name} sent {what}{said}.{hint}", status=self._status)

    def _fail(self, failure: LLMError, cause: BaseException | None, request_id: str | None = None) -> None:
        failure.partial = self.answer.text
        failure.request_id = failure.request_id or request_id or self.request_id
        failure.__cause__ = cause
        self.failure = failure
        self.ended = True


def _first_message(answered: Any) -> Any:
    try:
        return answered.choices[0].message
    except (AttributeError, IndexError, TypeError, KeyError):
        return None
