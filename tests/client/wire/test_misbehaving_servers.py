"""Whatever a server does, the error says which of the known things it was, with status and partial text."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from client import (
    AuthenticationError,
    BadRequestError,
    LLMClient,
    LLMConnectionError,
    LLMError,
    LLMTimeoutError,
    ModelNotFoundError,
    RateLimitedError,
    ServerError,
    StreamInterruptedError,
    UnexpectedResponseError,
)
from tests.client.conftest import HELLO, KEY
from tests.support.fake_openai import (
    Exchange,
    FakeOpenAI,
    Respond,
    events,
    models,
    piece,
    reply,
    say,
    stall,
    stream_bytes,
)

Make = Callable[..., LLMClient]
pytestmark = pytest.mark.usefixtures("both_paths")


async def failure_of(client: LLMClient) -> tuple[LLMError, str]:
    """Return the error that a streamed answer ends in, and the text that was handed out before it."""
    text = ""
    try:
        async for part in client.generate_streaming(HELLO):
            text += part
    except LLMError as error:
        return error, text
    pytest.fail(f"no error, but {text!r}")


def data(*bodies: object) -> bytes:
    return b"".join(
        b"data: " + (body if isinstance(body, bytes) else json.dumps(body).encode()) + b"\n\n" for body in bodies
    )


VLLM_404 = {"object": "error", "message": "The model `x` does not exist.", "type": "NotFoundError", "code": 404}
WITH_MESSAGE = {"message": "boom", "type": "InternalServerError", "code": 500}


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (400, BadRequestError, False),
        (401, AuthenticationError, False),
        (403, AuthenticationError, False),
        (408, ServerError, True),
        (409, ServerError, True),
        (413, BadRequestError, False),
        (418, BadRequestError, False),
        (422, BadRequestError, False),
        (429, RateLimitedError, True),
        (500, ServerError, True),
        (502, ServerError, True),
        (503, ServerError, True),
        (529, ServerError, True),
    ],
)
@pytest.mark.parametrize(
    "body",
    [{"error": {"message": "no"}}, {"error": "no"}, {"detail": "no"}, "<html><title>no</title></html>", "", "[]"],
)
async def test_status(
    server: FakeOpenAI, make: Make, status: int, kind: type[LLMError], retryable: bool, body: object
) -> None:
    server.script(reply(status, body, x_request_id="r-7"))
    error, text = await failure_of(make())
    assert type(error) is kind
    assert (error.status, error.retryable, error.partial, text) == (status, retryable, "", "")
    assert error.request_id == "r-7"
    assert error.__cause__ is not None
    if body not in ("", "[]"):
        assert "no" in str(error)


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (VLLM_404, ModelNotFoundError, 404),
        ({"error": {"message": "The model `x` does not exist.", "code": 404}}, ModelNotFoundError, 404),
        ({"error": {"message": "gone", "code": "model_not_found"}}, ModelNotFoundError, None),
        ({"error": {"message": "bad", "type": "BadRequestError", "param": None, "code": 400}}, BadRequestError, 400),
        ({"error": {"message": "bad", "type": "invalid_request_error", "code": None}}, BadRequestError, 400),
        ({"error": {"message": "slow down", "code": "429"}}, RateLimitedError, 429),
        ({"error": {"message": "no", "code": 401}}, AuthenticationError, 401),
        ({"error": WITH_MESSAGE}, ServerError, 500),
        ({"error": {"message": "boom"}}, ServerError, None),
        ({"error": "boom"}, ServerError, None),
        ({"error": "boom", "status": 503}, ServerError, 503),
        ({"error": json.dumps({"error": {"message": "bad", "code": 400}})}, BadRequestError, 400),
        ({"error": json.dumps({"message": "bad", "status": 422})}, BadRequestError, 422),
        ({"error": json.dumps(VLLM_404)}, ModelNotFoundError, 404),
        ({"error": json.dumps({"error_type": "x", "error_message": "boom", "status": 503})}, ServerError, 503),
        ({"error": {"message": json.dumps({"error": {"message": "bad", "code": 400}})}}, BadRequestError, 400),
        ({"error": {"message": "upstream said HTTP 429", "code": None}}, RateLimitedError, 429),
        ({"id": "x", "status": "FAILED", "error": json.dumps({"message": "bad", "code": 400})}, BadRequestError, 400),
        ([{"error": {"message": "bad", "code": 400}}], BadRequestError, 400),
        ({"detail": "boom", "status": 500}, ServerError, 500),
    ],
)
@pytest.mark.parametrize("shape", ["body", "event", "late event"])
async def test_error_under_http_200(
    server: FakeOpenAI, make: Make, body: object, kind: type[LLMError], status: int | None, shape: str
) -> None:
    late = shape == "late event"
    server.script(reply(200, body) if shape == "body" else events(*([piece("Hel"), piece("lo")] if late else []), body))
    error, text = await failure_of(make())
    assert type(error) is kind
    assert error.status == (404 if kind is ModelNotFoundError and status is None else status)
    assert error.partial == text == ("Hello" if late else "")


async def test_event_named_error(server: FakeOpenAI, make: Make) -> None:
    server.script(stream_bytes(data(piece("a")) + b'event: error\ndata: {"message": "boom", "code": 503}\n\n'))
    error, text = await failure_of(make())
    assert (type(error), error.status, error.partial, text) == (ServerError, 503, "a", "a")


@pytest.mark.parametrize("end", [b"", b"\n"])
async def test_bare_json_between_events(server: FakeOpenAI, make: Make, end: bytes) -> None:
    """What the end of a RunPod job looks like whose handler failed in the middle."""
    server.script(stream_bytes(data(piece("Hel")) + json.dumps({"error": WITH_MESSAGE}).encode() + end))
    error, text = await failure_of(make())
    assert (type(error), error.status, error.partial, text) == (ServerError, 500, "Hel", "Hel")


@pytest.mark.parametrize(
    ("respond", "status"),
    [
        (reply(200, "<!doctype html><html><title>Log in</title></html>", "text/html"), 200),
        (reply(200, "<html>", "text/event-stream"), 200),
        (reply(200, {"id": "1-u1", "status": "IN_QUEUE"}), 200),
        (reply(200, {"id": "1-u1", "status": "IN_PROGRESS"}, "text/event-stream"), 200),
        (events({"id": "1-u1", "status": "IN_QUEUE"}), 200),
        (reply(200, {"choices": None}), 200),
        (reply(200, {"choices": []}), 200),
        (reply(200, {"hello": "world"}), 200),
        (reply(200, "hello"), 200),
        (reply(200, "plain text", "text/plain"), 200),
        (reply(200, "[1, 2]"), 200),
        (reply(200, "null"), 200),
        (reply(200, ""), 200),
        (reply(200, b"\xff\xfe\x00"), 200),
        (reply(200, "[" * 100_000), 200),
        (stream_bytes(b"data: {not json\n\n"), 200),
        (stream_bytes(b"data: 17\n\n"), 200),
        (stream_bytes(b"data: " + b"x" * (17 * 2**20)), 200),
        (reply(200, b" " * (17 * 2**20)), 200),
        (reply(204, ""), 204),
    ],
)
async def test_no_answer_at_all(server: FakeOpenAI, make: Make, respond: Respond, status: int) -> None:
    server.script(respond)
    error, text = await failure_of(make())
    assert type(error) is UnexpectedResponseError, error
    assert (error.status, error.partial, text, error.retryable) == (status, "", "", False)
    assert len(str(error)) < 800


async def test_invalid_json_after_text(server: FakeOpenAI, make: Make) -> None:
    server.script(stream_bytes(data(piece("Hel"), b"{not json", piece("lo"))))
    error, text = await failure_of(make())
    assert (type(error), error.partial, text) == (UnexpectedResponseError, "Hel", "Hel")


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("partial", ["", "Hello"])
@pytest.mark.parametrize("tail", [b"", b'data: {"choices":[{"delta":{"content":"x', b"data: ", b": ping\n\n"])
async def test_stream_that_stops(server: FakeOpenAI, make: Make, cut: bool, partial: str, tail: bytes) -> None:
    server.script(stream_bytes((data(piece(partial)) if partial else b"") + tail, cut=cut))
    error, text = await failure_of(make())
    assert (type(error), error.partial, text) == (StreamInterruptedError, partial, partial)
    assert error.retryable


@pytest.mark.parametrize("ending", ["finish_reason", "done", "finish_reason, then cut"])
async def test_stream_that_ends_well(server: FakeOpenAI, make: Make, ending: str) -> None:
    last = data(b"[DONE]") if ending == "done" else data(piece(finish="stop"))
    server.script(stream_bytes(data(piece("Hello")) + last, cut="cut" in ending))
    assert await make().generate(HELLO) == "Hello"


async def test_done_without_a_newline(server: FakeOpenAI, make: Make) -> None:
    server.script(stream_bytes(data(piece("Hello")) + b"data: [DONE]"))
    assert await make().generate(HELLO) == "Hello"


async def test_connection_left_open_after_the_answer_holds_nobody_up(server: FakeOpenAI, make: Make) -> None:
    async def respond(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.event(piece("Hello", finish="stop"))
        await exchange.event(b"[DONE]")
        await exchange.gone.wait()

    server.script(respond)
    assert await make(idle_timeout=30).generate(HELLO) == "Hello"
    await server.requests[0].wait_gone(1)


@pytest.mark.parametrize("odd", [{"choices": None}, {"choices": []}, {"choices": [{"delta": None, "index": 0}]}, {}])
async def test_odd_chunks_change_nothing(server: FakeOpenAI, make: Make, odd: object) -> None:
    server.script(events(odd, piece("Hel"), odd, piece("lo"), odd, piece(finish="stop")))
    assert await make().generate(HELLO) == "Hello"


async def test_abort_is_an_interruption(server: FakeOpenAI, make: Make) -> None:
    server.script(events(piece("Hel"), piece(finish="abort")))
    error, text = await failure_of(make())
    assert (type(error), error.partial, text) == (StreamInterruptedError, "Hel", "Hel")


async def test_refused_connection() -> None:
    async with FakeOpenAI() as gone:
        url = gone.base_url
    async with LLMClient(base_url=url, max_retries=0) as client:
        error, _ = await failure_of(client)
    assert type(error) is LLMConnectionError
    assert (error.status, error.retryable) == (None, True)
    assert url in str(error)


async def test_unknown_host() -> None:
    async with LLMClient(base_url="http://no-such-host.invalid/v1", max_retries=0) as client:
        error, _ = await failure_of(client)
    assert type(error) is LLMConnectionError


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\ncontent-"])
async def test_connection_dropped_before_the_head(server: FakeOpenAI, make: Make, sent: bytes) -> None:
    async def respond(exchange: Exchange) -> None:
        await exchange.raw(sent)
        exchange.cut()

    server.script(respond)
    error, _ = await failure_of(make())
    assert type(error) is LLMConnectionError
    assert error.retryable


@pytest.mark.parametrize(
    "sent", [b"SSH-2.0-OpenSSH_9.6\r\n\r\n", b"\x15\x03\x01\x00\x02\x02\x16", b"HTTP/1.1 abc\r\n\r\n", b"\n" * 40]
)
async def test_not_http(server: FakeOpenAI, make: Make, sent: bytes) -> None:
    async def respond(exchange: Exchange) -> None:
        await exchange.raw(sent)
        exchange.writer.close()

    server.script(respond)
    error, _ = await failure_of(make())
    assert type(error) in (UnexpectedResponseError, LLMConnectionError)


async def test_endless_head(server: FakeOpenAI, make: Make) -> None:
    async def respond(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.1 200 OK\r\n")
        for number in range(100_000):
            await exchange.raw(b"x-%d: y\r\n" % number)
            await asyncio.sleep(0.001)

    server.script(respond)
    error, _ = await failure_of(make(first_token_timeout=1))
    assert type(error) in (UnexpectedResponseError, LLMTimeoutError)


async def drip_comments(exchange: Exchange) -> None:
    while not exchange.gone.is_set():
        await exchange.chunk(b": ping\n\n")
        await asyncio.sleep(0.02)


async def silent(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.gone.wait()


async def comments(exchange: Exchange) -> None:
    await exchange.head()
    await drip_comments(exchange)


async def empty_chunks(exchange: Exchange) -> None:
    await exchange.head()
    while not exchange.gone.is_set():
        await exchange.event(piece(""))
        await asyncio.sleep(0.02)


async def slow_head(exchange: Exchange) -> None:
    for byte in b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" * 20:
        await exchange.raw(bytes([byte]))
        await asyncio.sleep(0.05)


async def endless_body(exchange: Exchange) -> None:
    await exchange.head(type_="application/json")
    while not exchange.gone.is_set():
        await exchange.chunk(b" ")
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("respond", [stall, silent, comments, empty_chunks, slow_head, endless_body])
async def test_first_token_deadline(server: FakeOpenAI, make: Make, respond: Respond) -> None:
    server.script(respond)
    error, _ = await failure_of(make(first_token_timeout=0.3))
    assert isinstance(error, LLMTimeoutError)
    assert (error.phase, error.partial, error.status) == ("first_token", "", None)
    await server.requests[0].wait_gone(1)


@pytest.mark.parametrize("then", [drip_comments, stall])
async def test_idle_deadline(server: FakeOpenAI, make: Make, then: Respond) -> None:
    async def respond(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.event(piece("Hel"))
        await then(exchange)

    server.script(respond)
    error, text = await failure_of(make(idle_timeout=0.2))
    assert isinstance(error, LLMTimeoutError)
    assert (error.phase, error.partial, text) == ("idle", "Hel", "Hel")
    await server.requests[0].wait_gone(1)


async def test_total_deadline(server: FakeOpenAI, make: Make) -> None:
    server.script(say(*["a"] * 100, delay=0.05))
    error, text = await failure_of(make(total_timeout=0.4))
    assert isinstance(error, LLMTimeoutError)
    assert error.phase == "total"
    assert error.partial == text
    assert 1 <= len(text) < 10
    await server.requests[0].wait_gone(1)


async def test_the_callers_own_time_is_not_the_servers(server: FakeOpenAI, make: Make) -> None:
    server.script(say("a", "b", "c", delay=0.01))
    text = ""
    async for part in make(idle_timeout=0.15).generate_streaming(HELLO):
        await asyncio.sleep(0.3)
        text += part
    assert text == "abc"


async def test_connect_deadline() -> None:
    import socket

    with socket.socket() as full:  # a listener that accepts nobody, its queue full
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        with socket.socket() as first, socket.socket() as second:
            for other in (first, second):
                other.setblocking(False)
                other.connect_ex(full.getsockname())
            async with LLMClient(
                base_url=f"http://127.0.0.1:{full.getsockname()[1]}/v1", connect_timeout=0.2, max_retries=0
            ) as client:
                error, _ = await failure_of(client)
    assert isinstance(error, LLMTimeoutError)
    assert (error.phase, error.retryable) == ("connect", True)


@pytest.mark.parametrize("fill", [b"x" * 65536, b"x"])
async def test_error_body_without_end(
    server: FakeOpenAI, make: Make, fill: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client._wire.connection._ERROR_BODY_TIMEOUT", 0.5)

    async def respond(exchange: Exchange) -> None:
        await exchange.head(500, "text/plain")
        while not exchange.gone.is_set():
            await exchange.chunk(fill)
            await asyncio.sleep(0.001)

    server.script(respond)
    began = time.monotonic()
    error, _ = await failure_of(make())
    assert (type(error), error.status) == (ServerError, 500)
    assert time.monotonic() - began < 5


async def test_error_body_cut(server: FakeOpenAI, make: Make) -> None:
    async def respond(exchange: Exchange) -> None:
        await exchange.head(503, "application/json")
        await exchange.chunk(b'{"error"')
        await asyncio.sleep(0.02)
        exchange.cut()

    server.script(respond)
    error, _ = await failure_of(make())
    assert (type(error), error.status) == (ServerError, 503)


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (500, {"error": json.dumps({"error": {"message": "bad", "code": 400}})}, BadRequestError, 400),
        (500, {"error": "upstream said HTTP 400"}, ServerError, 500),
        (400, {"error": {"message": "x", "code": 503}}, BadRequestError, 400),
        (503, {"error": {"message": "x", "code": 500}}, ServerError, 503),
    ],
)
async def test_a_status_within_a_status(
    server: FakeOpenAI, make: Make, status: int, body: object, kind: type[LLMError], said: int
) -> None:
    server.script(reply(status, body))
    error, _ = await failure_of(make())
    assert (type(error), error.status) == (kind, said)


async def test_pages_made_to_be_slow(server: FakeOpenAI, make: Make) -> None:
    server.default = reply(200, "<script" * 300_000)
    began = time.monotonic()
    error, _ = await failure_of(make())
    assert type(error) is UnexpectedResponseError
    assert time.monotonic() - began < 2


async def test_retry_after(server: FakeOpenAI, make: Make) -> None:
    server.script(reply(429, {"error": "slow down"}, retry_after="7"))
    error, _ = await failure_of(make())
    assert isinstance(error, RateLimitedError)
    assert error.retry_after == 7


async def test_model_not_found_names_the_models(server: FakeOpenAI, make: Make) -> None:
    server.routes["/v1/models"] = models("gemma", "other")
    server.script(reply(404, {"error": {"message": "The model `fake` does not exist.", "code": 404}}))
    error, _ = await failure_of(make())
    assert type(error) is ModelNotFoundError
    assert "The model `fake` does not exist." in str(error)
    assert "gemma, other" in str(error)
    server.routes["/v1/models"] = models("tryout")
    server.script(reply(404, {"error": {"message": "The model `fake` does not exist.", "code": 404}}))
    error, _ = await failure_of(make())
    assert str(error).endswith("set LLM_MODEL=tryout.")


@pytest.mark.parametrize(
    "listing",
    [
        reply(500, "x"),
        reply(200, "<html>"),
        reply(200, {"data": None}),
        reply(200, {"data": [{"id": 7}, 3]}),
        reply(401, {}),
    ],
)
async def test_a_listing_that_makes_no_sense_changes_nothing(server: FakeOpenAI, make: Make, listing: Respond) -> None:
    server.routes["/v1/models"] = listing
    server.script(reply(404, {"error": {"message": "The model `fake` does not exist.", "code": 404}}))
    error, _ = await failure_of(make())
    assert type(error) is ModelNotFoundError
    assert (error.status, "The server has" in str(error)) == (404, False)


@pytest.mark.parametrize("to", ["", "//", "ftp://x/y", "http://[::1", "javascript:x"])
async def test_a_redirect_to_nowhere_is_said_and_not_tried_again(server: FakeOpenAI, make: Make, to: str) -> None:
    server.default = reply(307, "", location=to)
    error, _ = await failure_of(make(max_retries=2))
    assert type(error) is UnexpectedResponseError
    assert not error.retryable
    assert ".." not in str(error).replace("127.0.0.1", "")


async def test_wrong_path_is_no_missing_model(server: FakeOpenAI, make: Make) -> None:
    server.script(reply(404, {"detail": "Not Found"}))
    error, _ = await failure_of(make())
    assert type(error) is BadRequestError
    assert "LLM_BASE_URL" in str(error)


@pytest.mark.parametrize("status", [200, 401, 500])
async def test_keys_are_masked_and_quotes_short(
    server: FakeOpenAI, make: Make, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    import traceback

    caplog.set_level("DEBUG")
    server.script(reply(status, {"error": {"message": f"bad key {KEY} " + "x" * 2000, "code": 401}}))
    client = make()
    error, _ = await failure_of(client)
    printed = "".join(traceback.format_exception(error)) + repr(error.__cause__.__dict__ if error.__cause__ else "")
    for text in (str(error), printed, caplog.text, repr(client), repr(client._settings)):
        assert KEY not in text
    assert "***" in str(error)
    assert len(str(error)) < 700


@pytest.mark.parametrize("type_", ["application/json", "text/event-stream", "text/plain"])
async def test_whole_completion_is_accepted(server: FakeOpenAI, make: Make, type_: str) -> None:
    body: dict[str, Any] = {
        "id": "chatcmpl-9",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }
    server.script(reply(200, body, type_))
    async with make().stream(HELLO) as stream:
        assert [part async for part in stream] == ["Hello"]
    assert (stream.finish_reason, stream.usage.total_tokens if stream.usage else 0) == ("stop", 3)


@pytest.mark.parametrize(
    "type_",
    [
        "text/event-stream; charset=utf-8",
        "Text/Event-Stream",
        "application/octet-stream",
        "text/plain",
        "application/json",
    ],
)
async def test_events_under_any_type(server: FakeOpenAI, make: Make, type_: str) -> None:
    server.script(stream_bytes(data(piece("Hel"), piece("lo"), piece(finish="stop"), b"[DONE]"), type_=type_))
    assert await make().generate(HELLO) == "Hello"
