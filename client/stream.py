"""An answer while it arrives: an async iterable of text that knows the rest when it ends."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from client._wire.deadline import Deadline, DeadlinePassed
from client._wire.error_mapping import timed_out
from client._wire.exchange import End, Exchange
from client._wire.retry import may_fall_back
from client.completion import Completion
from client.stats import Stats
from client.telemetry import Observation, Observer, RequestEnd

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from client._wire.chunk import Usage
    from client._wire.endpoint import Endpoint
    from client.settings import ClientSettings

logger = logging.getLogger(__name__)


class TextStream:
    """The pieces of text of one answer, as they arrive: an async iterable.

    The request is sent when the iteration begins. `async with` closes the connection on the way out, however that is
    taken, and so stops the server's work. The attributes are complete once the iteration has ended.
    Raises LLMError, with the text so far in `partial`.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        prepare: Callable[[Endpoint], dict[str, Any]],
        settings: ClientSettings,
        slots: Callable[[], asyncio.Semaphore | None],
        observer: Observer,
        model: str,
    ) -> None:
        self._endpoints = endpoints
        self._observer = observer
        self._observation: Observation | None = None
        self._model = model
        self._prepare = prepare
        self._settings = settings
        self._find_slots = slots
        self._slot: asyncio.Semaphore | None = None
        self._deadline: Deadline | None = None
        self._exchange: Exchange | None = None
        self._began = 0.0
        self._end: End | None = None  # the one place that knows whether anything more will come

    @property
    def text(self) -> str:
        """Return the text so far."""
        return self._exchange.answer.text if self._exchange else ""

    @property
    def finish_reason(self) -> str | None:
        """Return why the answer ended: "stop", "length", "tool_calls", ...; None while it has not."""
        return self._exchange.answer.finish_reason if self._exchange else None

    @property
    def usage(self) -> Usage | None:
        """Return the tokens that the server counted, or None where it did not say."""
        return self._exchange.answer.usage if self._exchange else None

    @property
    def request_id(self) -> str | None:
        """Return the server's id of the request (header `x-request-id`, else the completion's id), or None."""
        return self._exchange.request_id if self._exchange else None

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """Return the tool calls, in the shape that an assistant message takes."""
        return self._exchange.answer.tool_calls if self._exchange else []

    @property
    def reasoning(self) -> str:
        """Return the reasoning so far, "" for models that show none."""
        return "".join(self._exchange.answer.reasoning) if self._exchange else ""

    @property
    def refusal(self) -> str | None:
        """Return what the model said in refusing (it is part of the text too), or None."""
        return ("".join(self._exchange.answer.refusals) or None) if self._exchange else None

    @property
    def logprobs(self) -> list[dict[str, Any]] | None:
        """Return an entry for each token in the API's shape, or None where none were asked for."""
        return self._exchange.answer.logprobs if self._exchange else None

    @property
    def completion(self) -> Completion:
        """Return all that has come of the answer so far, as one value."""
        return Completion(
            text=self.text,
            finish_reason=self.finish_reason,
            usage=self.usage,
            tool_calls=self.tool_calls,
            refusal=self.refusal,
            reasoning=self.reasoning,
            logprobs=self.logprobs,
            request_id=self.request_id,
            stats=self.stats,
        )

    @property
    def stats(self) -> Stats:
        """Return the figures so far."""
        exchange = self._exchange
        if exchange is None:
            return Stats(None, 0.0, 0, estimated=True, endpoint=self._endpoints[0].name, model=self._model)
        usage = exchange.answer.usage
        counted = usage.completion_tokens if usage else 0
        return Stats(
            time_to_first_token=None if exchange.first_at is None else exchange.first_at - self._began,
            duration=exchange.last_at - self._began,
            tokens=counted or exchange.answer.pieces,
            estimated=not counted,
            endpoint=exchange.endpoint.name,
            model=exchange.model,
            retries=exchange.retries,
        )

    def __aiter__(self) -> TextStream:
        """Return the stream itself: it can be iterated over once."""
        return self

    async def __anext__(self) -> str:
        """Return the next piece of text. Raises LLMError."""
        exchange = self._exchange
        if exchange is not None and exchange.answer.ready:
            return exchange.answer.ready.popleft()
        if exchange is None and self._end is not None:
            raise StopAsyncIteration  # closed before it began
        try:
            if exchange is None:
                exchange = await self._open()
            ready = exchange.answer.ready
            while not ready:
                if self._end is not None:
                    break
                self._end = await exchange.pump()
            else:
                return ready.popleft()
            if self._end.failure is None:
                await exchange.drain()
        except BaseException as error:
            await self._close(error)
            raise
        await self._close(self._end.failure)
        failure, self._end = self._end.failure, End()  # it is raised once
        if failure is not None:
            raise failure
        raise StopAsyncIteration

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
        await self._close(None)

    def __del__(self) -> None:
        """Close the connection of a stream that was dropped, from whatever thread."""
        deadline = self._deadline
        if deadline is None or deadline.loop.is_closed():
            return
        later = deadline.loop.call_soon_threadsafe
        later(deadline.close)
        if self._slot is not None:
            later(self._slot.release)
        if self._exchange is not None:
            later(self._exchange.drop)
        if self._observation is not None:
            later(self._observation.end, self._told(None, deadline.time()))

    async def _close(self, error: BaseException | None) -> None:
        """Close the connection and tell, once, that the request has ended, by `error` if it did."""
        self._end = self._end or End()
        deadline, self._deadline = self._deadline, None
        observation, self._observation = self._observation, None
        told = self._told(error, deadline.time()) if observation and deadline else None
        if deadline is not None:
            deadline.close()
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.release()
        try:
            if self._exchange is not None:
                self._exchange.answer.ready.clear()
                await self._exchange.close()
        finally:
            if observation is not None and told is not None:
                observation.end(told)

    def _told(self, error: BaseException | None, now: float) -> RequestEnd:
        """Return what is told of the request at its end."""
        stats, usage = self.stats, self.usage
        return RequestEnd(
            operation="chat",
            model=stats.model,
            endpoint=stats.endpoint,
            finish_reason=self.finish_reason,
            error=type(error).__name__ if error else None,
            status=getattr(error, "status", None),
            prompt_tokens=usage.prompt_tokens if usage else 0,
            completion_tokens=stats.tokens,
            cached_tokens=usage.cached_tokens if usage else 0,
            reasoning_tokens=usage.reasoning_tokens if usage else 0,
            estimated=stats.estimated,
            time_to_first_token=stats.time_to_first_token,
            duration=now - self._began,
            retries=stats.retries,
            request_id=self.request_id,
            response_model=self._exchange.answer.model if self._exchange else None,
        )

    async def _open(self) -> Exchange:
        """Ask the endpoints in turn until one begins an answer, or fails in a way that the next will not mend."""
        loop = asyncio.get_running_loop()
        deadline = self._deadline = Deadline(loop)
        self._began = loop.time()
        observation = self._observation = self._observer.begin("chat", self._model, self._endpoints[0].name)
        with observation.current():
            return await self._ask(deadline, observation)

    async def _ask(self, deadline: Deadline, observation: Observation) -> Exchange:
        total = self._settings.total_timeout
        total_due = None if total is None else self._began + total
        slots = self._find_slots()
        if slots is not None:
            try:
                with deadline.until(total_due, "total"):
                    await slots.acquire()
            except DeadlinePassed as passed:
                raise timed_out("total", total, self._endpoints[0]) from passed
            self._slot = slots
        for number, endpoint in enumerate(self._endpoints, 1):
            arguments = self._prepare(endpoint)
            observation.describe(arguments)
            exchange = Exchange(endpoint, arguments, self._settings, deadline, total_due)
            self._exchange = exchange
            end = await exchange.begin()
            if end is None or end.failure is None or exchange.first_at is not None:
                break
            if number == len(self._endpoints) or not may_fall_back(end.failure):
                end = await exchange.name_models(end)
                break
            other = self._endpoints[number].name
            logger.warning("%s failed (%s): asking %s", endpoint.name, type(end.failure).__name__, other)
            await exchange.close()
        self._end = end
        return exchange
