"""Embeddings: texts in, vectors out, in the order of the texts."""

from __future__ import annotations

import asyncio
import base64
import math
import sys
from array import array
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import msgspec

from client._wire.chunk import NONE, Usage, clean, loads, usage_of
from client._wire.error_body import find_error
from client._wire.error_mapping import (
    from_error_body,
    from_exception,
    readable,
    request_id_of,
    timed_out,
    unsendable,
)
from client._wire.exchange import with_models
from client._wire.masking import quote
from client._wire.request import embedding_arguments, is_one_text, is_the_sdks
from client._wire.retry import may_send_again, pause
from client.errors import LLMError, UnexpectedResponseError
from client.telemetry import RequestEnd

if TYPE_CHECKING:
    from collections.abc import Mapping

    from client._wire.endpoint import Endpoint
    from client.settings import ClientSettings
    from client.telemetry import Observer

_READ_LIMIT = 4 * 2**20  # bytes that are looked through for an error: Python's own decoder holds the event loop up


class _Row(msgspec.Struct, gc=False):
    embedding: list[float] | str
    index: int | None = None


class _Listing(msgspec.Struct):
    data: list[_Row]
    model: str | None = None
    usage: msgspec.Raw = NONE


_decode = msgspec.json.Decoder(_Listing).decode


class _Request:
    """One call of `embed`, and what is known of it so far."""

    def __init__(self, endpoint: Endpoint, settings: ClientSettings, arguments: dict[str, Any]) -> None:
        self.endpoint = endpoint
        self.retries = 0
        self.usage: Usage | None = None
        self.request_id: str | None = None
        self.response_model: str | None = None
        self._settings = settings
        self._arguments = arguments

    async def vectors(self, slots: asyncio.Semaphore | None) -> list[list[float]]:
        """Return the vectors; waits for a free slot first."""
        total, first = self._settings.total_timeout, self.endpoint.first_token_timeout
        try:
            async with asyncio.timeout(total) as whole, slots or nullcontext(), asyncio.timeout(first) as answer:
                await self.endpoint.enter_loop()
                response = await self._answer(answer.when() or math.inf)
        except TimeoutError as error:
            late = whole.expired()
            raise timed_out("total" if late else "first_token", total if late else first, self.endpoint) from error
        return self._read(response)

    async def _answer(self, due: float) -> Any:
        """Return the response, asking again where that may help before the loop's time `due`."""
        loop = asyncio.get_running_loop()
        while True:
            create = self.endpoint.client.embeddings.with_raw_response.create
            try:
                return await create(**self._arguments)
            except Exception as error:
                failure = from_exception(error, self.endpoint)
                if failure is None:
                    if not is_the_sdks(self.endpoint.client.embeddings.create):
                        raise  # a test's own
                    failure = unsendable(error)
                seconds = pause(self.retries, failure)
                late = loop.time() + seconds >= due
                if self.retries >= self._settings.max_retries or late or not may_send_again(failure):
                    raise await with_models(failure, self._arguments["model"], self.endpoint) from error
            self.retries += 1
            await asyncio.sleep(seconds)

    def _read(self, response: Any) -> list[list[float]]:
        body: bytes = response.content
        self.request_id = request_id_of(response.headers, self.endpoint)
        texts = self._arguments["input"]
        wanted = 1 if is_one_text(texts) else len(texts)
        try:
            listing = _decode(body)
            vectors = [_vector(row.embedding) for row in _in_order(listing.data)]
        except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
            raise self._no_vectors(response, "no embeddings") from error
        if len(vectors) != wanted:
            raise self._no_vectors(response, f"{len(vectors)} embeddings for {wanted} texts")
        self.usage = usage_of(listing.usage)
        self.response_model = clean(listing.model) if listing.model else None
        return vectors

    def _no_vectors(self, response: Any, what: str) -> LLMError:
        """Return what a body is that holds other things than were asked for: the server's error, or none of it."""
        text = response.content[:_READ_LIMIT].decode("utf-8", "replace")
        try:
            error = find_error(loads(text))
        except ValueError:
            error = None
        if error is not None:
            return from_error_body(error, self.endpoint, headers=response.headers, request_id=self.request_id)
        said = quote(readable(text), self.endpoint.keys)
        return UnexpectedResponseError(
            f"{self.endpoint.name} sent {what}{f': {said}' if said else '.'}",
            status=response.status_code,
            request_id=self.request_id,
        )


async def embed(
    endpoint: Endpoint,
    settings: ClientSettings,
    slots: asyncio.Semaphore | None,
    observer: Observer,
    texts: Any,
    model: str,
    options: Mapping[str, Any],
) -> list[list[float]]:
    """Return a vector for each text; see `LLMClient.embeddings`."""
    try:
        arguments = embedding_arguments(texts, model, options)
    except Exception as error:
        raise unsendable(error) from error
    if not arguments["input"] and not isinstance(texts, str):
        return []
    loop = asyncio.get_running_loop()
    began = loop.time()
    request = _Request(endpoint, settings, arguments)
    observation = observer.begin("embeddings", model, endpoint.name)
    observation.describe(arguments)
    failure: BaseException | None = None
    try:
        with observation.current():
            return await request.vectors(slots)
    except BaseException as error:
        failure = error
        raise
    finally:
        usage = request.usage
        observation.end(
            RequestEnd(
                operation="embeddings",
                model=model,
                endpoint=endpoint.name,
                error=type(failure).__name__ if failure else None,
                status=getattr(failure, "status", None),
                prompt_tokens=(usage.prompt_tokens or usage.total_tokens) if usage else 0,
                cached_tokens=usage.cached_tokens if usage else 0,
                duration=loop.time() - began,
                retries=request.retries,
                request_id=request.request_id or getattr(failure, "request_id", None),
                response_model=request.response_model,
            )
        )


def _in_order(rows: list[_Row]) -> list[_Row]:
    """Return the rows in the order of the texts: by their numbers, where these tell them apart."""
    numbers = [row.index for row in rows if row.index is not None]
    return sorted(rows, key=lambda row: row.index or 0) if len(set(numbers)) == len(rows) else rows


def _vector(embedding: list[float] | str) -> list[float]:
    """Return the numbers of an embedding, which may come as the base64 of little-endian float32.

    Raises ValueError for what is none.
    """
    if isinstance(embedding, str):
        numbers = array("f", base64.b64decode(embedding, validate=True))
        if sys.byteorder == "big":
            numbers.byteswap()
        embedding = numbers.tolist()
    if not embedding or not math.isfinite(sum(embedding)):
        raise ValueError("no numbers")
    return embedding
