"""From what went wrong to the error that says so: the one place where errors of other libraries are mapped."""

from __future__ import annotations

import email.utils
import re
import time
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

from client._wire.chunk import loads
from client._wire.error_body import ErrorBody, read_error
from client._wire.masking import MASK, mask, quote
from client.errors import (
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    LLMConnectionError,
    LLMError,
    LLMTimeoutError,
    ModelNotFoundError,
    Phase,
    RateLimitedError,
    ServerError,
    UnexpectedResponseError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from client._wire.endpoint import Endpoint

_TITLE = re.compile(r"(?is)<title[^>]*>(.*?)</title>")
_TAGS = re.compile(r"(?is)<(script|style)\b.*?</\1>|<[^>]*>")
_PAGE_LIMIT = 10_000  # characters: the expressions above take quadratic time on a page made to be slow
_MASKED_DEPTH = 8
_ITEMS = 50
# The gateway waited for a worker in vain: sending it again would be a second billed job.
_GATEWAY_TIMEOUTS = (408, 504, 524)


def from_exception(error: Exception, endpoint: Endpoint) -> LLMError | None:
    """Return what `error`, raised on the way to an answer, means; None for what is not a failure of the exchange."""
    import aiohttp  # these three load on first use
    import httpx2
    import openai

    hide_keys(error, endpoint.keys)
    if isinstance(error, openai.APIStatusError):
        return _from_status(error, endpoint)
    if isinstance(error, (openai.APIConnectionError, httpx2.TransportError, aiohttp.ClientError, OSError)):
        return _from_transport(error, endpoint)
    if isinstance(error, openai.APIError):
        return from_error_body(read_error(error.body or error.message), endpoint)
    if isinstance(error, (openai.OpenAIError, httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError)):
        return UnexpectedResponseError(f"{endpoint.name} could not be asked: {quote(str(error), endpoint.keys)}")
    return None


def from_error_body(
    body: ErrorBody,
    endpoint: Endpoint,
    *,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
    request_id: str | None = None,
) -> LLMError:
    """Return the error that the server spoke of, in a body under HTTP `status` (None for 200)."""
    code = body.status or body.hinted
    if status is not None and not (status >= 500 and body.status and body.status < 500):
        code = status  # what HTTP says counts, unless a gateway wraps a worker's 4xx in its own 5xx
    said = quote(body.message, endpoint.keys)
    where = f"{endpoint.name}, HTTP {code}" if code is not None else endpoint.name
    kwargs: dict[str, Any] = {"status": code, "request_id": request_id}
    failure: LLMError
    if code in (401, 403):
        failure = AuthenticationError(
            f"The key was refused ({where}): {said.rstrip('.')}. Check {endpoint.variable('API_KEY')}.", **kwargs
        )
    elif code == 404 or body.kind == "model_not_found":
        if body.kind == "model_not_found" or "model" in body.message.lower():
            failure = ModelNotFoundError(f"No such model ({where}): {said}", **kwargs)
        else:
            failure = BadRequestError(
                f"Not found ({where}): {said.rstrip('.')}. Check {endpoint.variable('BASE_URL')}.", **kwargs
            )
    elif code == 429:
        failure = RateLimitedError(f"Too many requests ({where}): {said}", **kwargs)
    elif code is None or code >= 500 or code in (408, 409):
        lost = endpoint.is_runpod and code in _GATEWAY_TIMEOUTS
        failure = ServerError(f"The server failed ({where}): {said}", retryable=not lost, **kwargs)
    else:
        failure = BadRequestError(f"The request was refused ({where}): {said}", **kwargs)
    if isinstance(failure, (RateLimitedError, ServerError)):
        failure.retry_after = retry_after(headers or {})
    if isinstance(failure, (BadRequestError, ServerError)):
        failure.parameter = body.parameter
    return failure


def unsendable(error: Exception) -> ConfigurationError:
    """Return the error for arguments that cannot be sent: `error` came up before anything was."""
    said = str(error) if isinstance(error, (TypeError, ValueError)) else type(error).__name__
    return ConfigurationError(
        f"The messages or options cannot be sent: {quote(said, ())}. They must be what JSON can hold: text, finite "
        "numbers, true, false, None, lists and dictionaries of these."
    )


def request_id_of(headers: Mapping[str, str], endpoint: Endpoint) -> str | None:
    """Return the header `x-request-id`, fit for a log, or None."""
    value = headers.get("x-request-id")
    return quote(value, endpoint.keys) if value else None


def timed_out(phase: Phase, seconds: float | None, endpoint: Endpoint) -> LLMTimeoutError:
    """Return the error for a deadline of `seconds` that passed."""
    what = {
        "connect": "no connection",
        "first_token": "no first token",
        "idle": "nothing more",
        "total": "no complete answer",
    }[phase]
    after = f" within {seconds:g} s" if seconds is not None else " in time"
    return LLMTimeoutError(
        f"{endpoint.name} gave {what}{after} (LLM_{phase.upper()}_TIMEOUT).",
        phase=phase,
        retryable=not (endpoint.is_runpod and phase != "connect"),
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait that `headers` ask for (`retry-after-ms`, `retry-after` as seconds or a date)."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
            except (ValueError, TypeError, OverflowError):
                continue
        if 0 <= seconds < float("inf"):
            return seconds
    return None


def hide_keys(error: BaseException, keys: tuple[str, ...]) -> None:
    """Mask `keys` in `error` and its causes: they are printed below ours in a traceback."""
    for link in _chain(error):
        link.args = tuple(mask(arg, keys) if isinstance(arg, str) else arg for arg in link.args)
        for name in ("message", "body"):
            value = getattr(link, name, None)
            if isinstance(value, (str, dict, list)):
                with suppress(AttributeError):  # read-only
                    setattr(link, name, _masked(value, keys))


def _masked(value: Any, keys: tuple[str, ...], depth: int = 0) -> Any:
    """Return `value` masked, and no more of it than anybody reads."""
    if isinstance(value, str):
        return mask(value, keys)
    if not isinstance(value, (dict, list)):
        return value
    if depth == _MASKED_DEPTH:
        return MASK
    if isinstance(value, dict):
        return {mask(str(name), keys): _masked(item, keys, depth + 1) for name, item in islice(value.items(), _ITEMS)}
    return [_masked(item, keys, depth + 1) for item in value[:_ITEMS]]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _from_status(error: Any, endpoint: Endpoint) -> LLMError:
    body = error.body
    if isinstance(body, str):
        try:
            body = loads(body)
        except ValueError:
            body = readable(body)
    error_body = read_error(body) if body else ErrorBody("no reason given")
    headers = error.response.headers
    return from_error_body(
        error_body, endpoint, status=error.status_code, headers=headers, request_id=request_id_of(headers, endpoint)
    )


def readable(text: str) -> str:
    """Return `text`, or, of a web page, its title or its words."""
    if not text.lstrip().startswith("<"):
        return text
    text = text[:_PAGE_LIMIT]
    title = _TITLE.search(text)
    return (title[1].strip() if title else "") or _TAGS.sub(" ", text).strip() or "an empty web page"


def _from_transport(error: Exception, endpoint: Endpoint) -> LLMError:
    """Tell apart what the SDK reports as one: with aiohttp below, a refused connection reaches us as its timeout."""
    import aiohttp
    import httpx2
    import openai

    chain = list(_chain(error))
    cause = chain[-1]
    for link in chain:
        if isinstance(link, (httpx2.TooManyRedirects, httpx2.UnsupportedProtocol)):
            return UnexpectedResponseError(
                f"{endpoint.name} redirects to where no answer is ({quote(str(link), endpoint.keys).rstrip('.')}). "
                f"Check {endpoint.variable('BASE_URL')}."
            )
        if isinstance(link, (aiohttp.ConnectionTimeoutError, httpx2.PoolTimeout)):
            return timed_out("connect", endpoint.connect_timeout, endpoint)
        if isinstance(link, (aiohttp.SocketTimeoutError, httpx2.ReadTimeout, httpx2.WriteTimeout)):
            return timed_out("first_token", None, endpoint)
        if isinstance(link, (aiohttp.ClientResponseError, httpx2.RemoteProtocolError)) and not isinstance(
            link, aiohttp.ClientHttpProxyError
        ):
            if "disconnected" in str(link):
                break
            said = str(getattr(link, "message", link)).partition("\n")[0]
            return UnexpectedResponseError(f"{endpoint.name} does not speak HTTP: {quote(said, endpoint.keys)}")
    if isinstance(error, (openai.APITimeoutError, TimeoutError)) and len(chain) == 1:
        return timed_out("first_token", None, endpoint)  # a mock's: nothing below it tells more
    connecting = (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError, httpx2.ConnectError)
    refused = any(isinstance(link, connecting) for link in chain)
    if not refused and any(isinstance(link, httpx2.ConnectTimeout) for link in chain[-1:]):
        return timed_out("connect", endpoint.connect_timeout, endpoint)
    # aiohttp's message for this one may be all that was read of the head.
    gone = isinstance(cause, aiohttp.ServerDisconnectedError)
    reason = "the server disconnected" if gone else quote(_words(cause), endpoint.keys)
    if refused:
        proxied = any(
            isinstance(link, (aiohttp.ClientProxyConnectionError, aiohttp.ClientHttpProxyError)) for link in chain
        )
        hint = (
            "Is the proxy of HTTP_PROXY, HTTPS_PROXY or ALL_PROXY right?"
            if proxied
            else f"Is the server up, and is {endpoint.variable('BASE_URL')} right?"
        )
        return LLMConnectionError(f"Cannot connect to {endpoint.name}: {reason}. {hint}")
    lost = LLMConnectionError(
        f"{endpoint.name} dropped the connection before it answered: {reason}.", retryable=not endpoint.is_runpod
    )
    lost.connected = True
    return lost


def _words(error: BaseException) -> str:
    """Return what `error` says, without the number that an OSError and its like begin with."""
    said = error.args[1] if len(error.args) == 2 and isinstance(error.args[1], str) else str(error)
    return said or type(error).__name__
