"""One request to one endpoint, from sending it to the last byte of its answer."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import msgspec

from client._wire.answer import Answer, CutShort, ErrorFound, NotAnAnswer
from client._wire.body import BodyReader
from client._wire.byte_source import find_stream, open_byte_stream
from client._wire.chunk import chunk_of_completion, chunk_of_object, first_message
from client._wire.deadline import DeadlinePassed
from client._wire.error_mapping import (
    from_error_body,
    from_exception,
    hide_keys,
    readable,
    request_id_of,
    timed_out,
    unsendable,
)
from client._wire.masking import quote
from client._wire.request import is_the_sdks, is_untouched, mended, without_the_sdks_walk
from client._wire.retry import may_send_again, pause
from client.errors import BadRequestError, LLMError, ModelNotFoundError, StreamInterruptedError, UnexpectedResponseError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from client._wire.byte_source import ByteStream
    from client._wire.deadline import Deadline
    from client._wire.endpoint import Endpoint
    from client.errors import Phase
    from client.settings import ClientSettings

logger = logging.getLogger(__name__)

# After the finish reason only the usage and [DONE] are due: a server that owes them holds nobody up for longer.
_LAST_WORDS_S = 2.0
_DRAIN_S = 0.1
_NAMED_MODELS = 20


class End(msgspec.Struct, frozen=True):
    """The end of an exchange: nothing more will arrive; `failure` is None where the answer is whole."""

    failure: LLMError | None = None


_WHOLE = End()


class Exchange:
    """One request and what has come of it. Times are the event loop's.

    `begin` and `pump` return the End once there is one; it is not kept here.
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
        self._several = _asks_for_several(arguments)
        self.answer = Answer(several=self._several)
        self.retries = 0
        self.first_at: float | None = None
        self.last_at = deadline.time()
        self._request_id: str | None = None
        self._status: int | None = None
        self._arguments = arguments
        self._mended = False
        self._settings = settings
        self._deadline = deadline
        self._first_due = self.last_at + endpoint.first_token_timeout
        self._total_due = total_due
        self._due: float | None = None
        self._phase: Phase = "first_token"
        self._seen = (0, False)
        self._bytes: ByteStream | None = None
        self._body: BodyReader | None = None
        self._objects: AsyncIterator[Any] | None = None

    @property
    def request_id(self) -> str | None:
        """Return the server's id of the request: the header `x-request-id`, else the completion's id."""
        return self._request_id or self.answer.id

    async def begin(self) -> End | None:
        """Send the request and wait for the first piece of the answer."""
        while True:
            end = await self._ask()
            while end is None and self.first_at is None:
                end = await self.pump()
            if end is None or end.failure is None or self.first_at is not None:
                return end
            refused = self.endpoint.dialect.learn(self.model, self._arguments, end.failure)
            if not refused:
                return end
            logger.warning("%s: %s; asked without it", self.endpoint.name, refused)
            await self.close()
            self.answer = Answer(several=self._several)
            self._seen = (0, False)

    async def _ask(self) -> End | None:
        """Send the request, again where that may help, until there is something to read."""
        await self.endpoint.enter_loop()
        attempt = 0
        while True:
            self._set_due()
            create = self.endpoint.client.chat.completions.create
            watched = not is_untouched(self.endpoint.client)
            try:
                with self._deadline.until(self._due, self._phase):
                    answered = create(**(self._arguments if watched else without_the_sdks_walk(self._arguments)))
                    if hasattr(type(answered), "__await__"):
                        answered = await answered
            except DeadlinePassed as passed:
                return self._time_out(passed)
            except Exception as error:
                failure = from_exception(error, self.endpoint)
                if failure is None:
                    if not is_the_sdks(create):
                        raise  # a test's own
                    if isinstance(error, UnicodeEncodeError) and not self._mended:
                        self._mended, self._arguments = True, mended(self._arguments)
                        continue
                    failure = unsendable(error)
                failure.__cause__ = error
            else:
                return self._take(answered, watched=watched)
            seconds = pause(attempt, failure)
            too_late = self._due is not None and self._deadline.time() + seconds >= self._due
            if attempt >= self._settings.max_retries or not may_send_again(failure) or too_late:
                return self._fail(failure, failure.__cause__)
            attempt += 1
            self.retries += 1
            logger.info("%s: %s; sent again in %.1f s", self.endpoint.name, type(failure).__name__, seconds)
            await asyncio.sleep(seconds)

    async def pump(self) -> End | None:
        """Wait for the next bytes (or object) and take what they bring."""
        if self._due is None:
            self._set_due()
        try:
            with self._deadline.until(self._due, self._phase):
                if self._bytes is not None:
                    data = await self._bytes.read()
                else:
                    assert self._objects is not None
                    chunk = await anext(self._objects)
        except DeadlinePassed as passed:
            return self._time_out(passed)
        except StopAsyncIteration:
            return _WHOLE
        except Exception as error:
            return self._break_off(error)
        end: End | None = None
        try:
            if self._body is None:
                self.answer.add_chunk(chunk_of_object(chunk))
            elif data:
                end = _WHOLE if self._body.take(data) else None
            else:
                end = _WHOLE if self._body.end() else self._interrupt(None)
        except ErrorFound as found:
            end = self._fail(from_error_body(found.error, self.endpoint), None)
        except NotAnAnswer as found:
            end = self._fail(self._unexpected(found.what, found.quoted), found.__context__)
        except CutShort as error:
            end = self._interrupt(error)
        except (RecursionError, ValueError) as error:  # nested as deep as one decoder takes it, and another does not
            end = self._fail(self._unexpected("a chunk that cannot be read", ""), error)
        seen = (self.answer.pieces, self.answer.finish_reason is not None)
        if seen != self._seen:
            self._seen = seen
            self._mark()
        return end

    async def drain(self) -> None:
        """Read the last bytes after the answer, so that the connection can serve again."""
        stream = self._bytes
        if stream is None or stream.at_end:
            return
        try:
            with self._deadline.until(self._deadline.time() + _DRAIN_S, "idle"):
                while await stream.read():
                    pass
        except Exception as error:
            logger.debug("%s left the connection open (%s)", self.endpoint.name, type(error).__name__)

    async def close(self) -> None:
        """Close the connection, or give it back if all was read."""
        stream, self._bytes = self._bytes, None
        objects, self._objects = self._objects, None
        if stream is not None:
            try:
                await stream.close()
            except Exception as error:
                logger.debug("Closing a connection to %s: %s", self.endpoint.name, type(error).__name__)
        elif hasattr(type(objects), "aclose"):
            await objects.aclose()  # type: ignore[union-attr]

    def drop(self) -> None:
        """Close the connection as far as that is possible without awaiting."""
        if self._bytes is not None:
            self._bytes.drop()

    async def name_models(self, end: End) -> End:
        """Add to a "not found" the models that the server has."""
        told = end.failure and await with_models(end.failure, self.model, self.endpoint)
        if told is None or told is end.failure:
            return end
        return self._fail(told, told.__cause__, told.request_id)

    def _take(self, answered: Any, *, watched: bool) -> End | None:
        """Find out what `create` returned: the SDK's stream, which we decode ourselves, or what a test put there."""
        stream = find_stream(answered)
        if stream is not None:
            headers = stream.response.headers
            self._bytes = open_byte_stream(stream, answered if watched else None)
            self._body = BodyReader(self.answer, typed="event-stream" in headers.get("content-type", "").lower())
            self._status = stream.response.status_code
            self._request_id = request_id_of(headers, self.endpoint)
            return None
        # A whole completion is told by its text: a mock has every attribute, and `__aiter__` too.
        message = first_message(answered)
        if not isinstance(getattr(message, "content", None), str) and hasattr(type(answered), "__aiter__"):
            self._objects = aiter(answered)
            return None
        self.answer.add_chunk(chunk_of_completion(answered))
        self._mark()
        return _WHOLE

    def _mark(self) -> None:
        """Note that a piece of the answer has arrived."""
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
            if self.answer.settled:
                idle = min(idle, _LAST_WORDS_S)
            due, self._phase = self._deadline.time() + idle, "idle"
        if self._total_due is not None and self._total_due < due:
            due, self._phase = self._total_due, "total"
        self._due = due

    def _time_out(self, passed: DeadlinePassed) -> End:
        # A model that said "stop" while it only thought was about to speak (open-webui discussion 16377).
        if self.answer.finish_reason is not None and not (
            self.answer.only_reasoning and self.answer.finish_reason == "stop"
        ):
            return _WHOLE
        seconds = {
            "first_token": self.endpoint.first_token_timeout,
            "idle": self._settings.idle_timeout,
            "total": self._settings.total_timeout,
        }.get(passed.phase)
        return self._fail(timed_out(passed.phase, seconds, self.endpoint), passed)

    def _break_off(self, error: Exception) -> End:
        """Take an error that the reading raised."""
        if self._bytes is not None:
            return self._interrupt(error)
        failure = error if isinstance(error, LLMError) else from_exception(error, self.endpoint)
        if failure is None:
            raise error  # a test's own
        return self._fail(failure, error.__cause__ if failure is error else error)

    def _interrupt(self, error: Exception | None) -> End:
        """Take the end of the connection before the end of the answer."""
        if self.answer.finish_reason is not None:
            return _WHOLE
        how = "ended early"
        if error is not None:
            hide_keys(error, self.endpoint.keys)
            how = f"broke off ({quote(str(error), self.endpoint.keys) or type(error).__name__})"
        failure = StreamInterruptedError(f"The answer of {self.endpoint.name} {how}.", status=self._status)
        return self._fail(failure, error)

    def _unexpected(self, what: str, quoted: str) -> LLMError:
        said = f": {quote(readable(quoted), self.endpoint.keys)}" if quoted else ""
        hint = f" Check {self.endpoint.variable('BASE_URL')}." if self.first_at is None else ""
        return UnexpectedResponseError(f"{self.endpoint.name} sent {what}{said}.{hint}", status=self._status)

    def _fail(self, failure: LLMError, cause: BaseException | None, request_id: str | None = None) -> End:
        failure.partial = self.answer.text
        failure.request_id = failure.request_id or request_id or self.request_id
        failure.__cause__ = cause
        return End(failure)


def _asks_for_several(arguments: dict[str, Any]) -> bool:
    n = arguments.get("n")
    return type(n) is int and n > 1


async def with_models(failure: LLMError, model: str, endpoint: Endpoint) -> LLMError:
    """Return a "not found" that names the models that the server has; where they cannot be learnt, it as it is."""
    if not isinstance(failure, BadRequestError) or not (
        failure.status == 404 or isinstance(failure, ModelNotFoundError)
    ):
        return failure
    try:
        models = await endpoint.list_models()
    except Exception as error:
        logger.debug("No list of models from %s: %s", endpoint.name, type(error).__name__)
        return failure
    if not models or model in models:
        return failure
    names = ", ".join(quote(name, endpoint.keys) for name in models[:_NAMED_MODELS])
    variable = endpoint.variable("MODEL")
    has = (
        f"The server has only {names}: set {variable}={names}."
        if len(models) == 1
        else f"The server has: {names}. Set {variable} to one of them."
    )
    told = ModelNotFoundError(f"{failure} {has}", status=failure.status, request_id=failure.request_id)
    told.__cause__ = failure.__cause__
    return told
