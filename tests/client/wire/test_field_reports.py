"""What people who stream from OpenAI-compatible servers reported, replayed; the reports' numbers stand beside them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from client import LLMClient, LLMError, LLMTimeoutError, RateLimitedError, ServerError, UnexpectedResponseError
from tests.client.conftest import HELLO, KEY
from tests.support.fake_openai import Exchange, FakeOpenAI, Respond, events, piece, reply, stream_bytes

Make = Callable[..., LLMClient]
STOP = piece(finish="stop")


def paced(*steps: object, done: bool = True, hang: bool = False) -> Respond:
    """Return what sends chunks, bytes as they are, and pauses in seconds between them."""

    async def respond(exchange: Exchange) -> None:
        await exchange.head()
        for step in steps:
            if isinstance(step, (int, float)):
                await asyncio.sleep(step)
            elif isinstance(step, bytes):
                await exchange.chunk(step)
            else:
                await exchange.event(step)
        if done:
            await exchange.event(b"[DONE]")
        await (exchange.gone.wait() if hang else exchange.end())

    return respond


async def test_the_first_line_in_two_reads(server: FakeOpenAI, make: Make) -> None:
    rest = json.dumps(piece("Hello")).encode() + b"\n\n"
    server.script(paced(b"data: ", 0.05, rest, STOP), paced(b"da", 0.05, b"ta:", 0.05, rest, STOP))
    client = make()
    assert await client.generate(HELLO) == "Hello"
    assert await client.generate(HELLO) == "Hello"


@pytest.fixture
def _few_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client._wire.exchange._LAST_WORDS_S", 0.05)


@pytest.mark.usefixtures("_few_last_words")
@pytest.mark.parametrize("word", ["", "null", "None", "NONE", " ", None, 0, False, {}])
async def test_words_that_are_no_finish_reason(server: FakeOpenAI, make: Make, word: Any) -> None:
    """ollama/ollama#4357, sgl-project/sglang#3912"""
    server.script(paced(piece("Hel", finish=word), 0.2, piece("lo", finish=word), STOP))
    assert await make().generate(HELLO) == "Hello"
    server.script(paced(piece("Hel", finish=word), done=False))
    with pytest.raises(LLMError) as caught:
        await make().generate(HELLO)
    assert caught.value.partial == "Hel"


@pytest.mark.usefixtures("_few_last_words")
async def test_a_finish_reason_on_thoughts_is_not_the_end(server: FakeOpenAI, make: Make) -> None:
    """open-webui/open-webui#16377"""
    thought = piece(reasoning_content="hm", finish="stop")
    server.script(paced(thought, 0.3, piece("Hello"), STOP), paced(thought, done=False, hang=True))
    assert await make().generate(HELLO) == "Hello"
    with pytest.raises(LLMTimeoutError):
        await make(idle_timeout=0.2).generate(HELLO)


@pytest.mark.usefixtures("_few_last_words")
async def test_a_finish_reason_on_each_chunk_is_not_the_end(server: FakeOpenAI, make: Make) -> None:
    server.script(paced(piece("Hel", finish="stop"), 0.3, piece("lo", finish="stop")))
    assert await make().generate(HELLO) == "Hello"


@pytest.mark.usefixtures("_few_last_words")
async def test_a_server_that_owes_done_holds_nobody_up(server: FakeOpenAI, make: Make) -> None:
    server.script(paced(piece("Hello"), STOP, done=False, hang=True))
    async with asyncio.timeout(10):
        assert await make(idle_timeout=30).generate(HELLO) == "Hello"


def calls(*pieces: Any) -> dict[str, Any]:
    return piece(tool_calls=list(pieces))


def call(name: str | None = None, arguments: Any = None, **more: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {**more, "function": {key: value for key, value in function.items() if value is not None}}


A, B = ("f", '{"x": 1}'), ("g", '{"y": 2}')


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        # as OpenAI sends them
        (
            [calls(call("f", "", index=0, id="a")), calls(call(None, A[1], index=0)), calls(call("g", "", index=1, id="b")), calls(call(None, B[1], index=1))],
            [("a", *A), ("b", *B)],
        ),
        # parallel calls that all have index 0, with ids of their own (BerriAI/litellm#14587)
        (
            [calls(call("f", "", index=0, id="a")), calls(call(None, A[1], index=0)), calls(call("g", "", index=0, id="b")), calls(call(None, B[1], index=0))],
            [("a", *A), ("b", *B)],
        ),
        ([calls(call(*A, index=0, id="a")), calls(call(*B, index=0, id="b"))], [("a", *A), ("b", *B)]),
        ([calls(call(*A, index=0, id="a"), call(*A, index=0, id="b"))], [("a", *A), ("b", *A)]),
        # no index (huggingface/smolagents#1958)
        ([calls(call(*A, id="a")), calls(call(*B, id="b"))], [("a", *A), ("b", *B)]),
        ([calls(call(*A, id="a"), call(*B, id="b"))], [("a", *A), ("b", *B)]),
        ([calls(call("f", "", id="a")), calls(call(None, '{"x"')), calls(call(None, ": 1}"))], [("a", *A)]),
        ([calls(call(*A)), calls(call(*B))], [("", *A), ("", *B)]),
        ([calls(call("f", ""), call("g", "")), calls(call(None, A[1]), call(None, B[1]))], [("", *A), ("", *B)]),
        # no ids, all index 0
        ([calls(call(*A, index=0)), calls(call(*B, index=0))], [("", *A), ("", *B)]),
        ([calls(call(*A, index=0)), calls(call("f", '{"x": 2}', index=0))], [("", *A), ("", "f", '{"x": 2}')]),
        # one call with index 1 throughout (sgl-project/sglang#38198)
        ([calls(call("f", "", index=1, id="a")), calls(call(None, A[1], index=1))], [("a", *A)]),
        # an id that changes without a name, with each piece
        ([calls(call("f", "", index=0, id="a")), calls(call(None, '{"x"', index=0, id="b")), calls(call(None, ": 1}", index=0, id="c"))], [("a", *A)]),
        ([calls(call("f", "", id="a")), calls(call(None, A[1], id="z"))], [("a", *A)]),
        # id and name again with each piece
        ([calls(call("f", '{"x"', index=0, id="a")), calls(call("f", ": 1}", index=0, id="a"))], [("a", *A)]),
        ([calls(call("f", '{"x"', index=0)), calls(call("f", ": 1}", index=0))], [("", *A)]),
        # the whole call again at the end
        ([calls(call("f", '{"x"', index=0, id="a")), calls(call(None, ": 1}", index=0)), calls(call(*A, index=0, id="a"))], [("a", *A)]),
        # all of the call so far with each piece
        ([calls(call("f", '{"x"', index=0, id="a")), calls(call("f", '{"x": 1', index=0, id="a")), calls(call(*A, index=0, id="a"))], [("a", *A)]),
        # an empty object that stands for arguments to come
        ([calls(call("f", "{}", index=0, id="a")), calls(call(None, A[1], index=0))], [("a", *A)]),
        ([calls(call("f", "{}", index=0, id="a")), calls(call("g", "{}", index=1, id="b"))], [("a", "f", "{}"), ("b", "g", "{}")]),
        # the function's fields beside the id; another name for the arguments
        ([calls({"index": 0, "id": "a", "name": "f", "arguments": A[1]})], [("a", *A)]),
        ([calls({"index": 0, "id": "a", "function": {"name": "f", "parameters": {"x": 1}}})], [("a", *A)]),
        # arguments that are an object, missing, or null
        ([calls(call("f", {"x": 1}, index=0, id="a"))], [("a", *A)]),
        ([calls({"index": 0, "id": "a", "function": {"name": "f", "arguments": None}})], [("a", "f", "")]),
        # pieces under an index of their own that say nothing but arguments
        ([calls(call("f", "", index=0, id="a")), calls(call(None, A[1], index=1))], [("a", *A)]),
        # what was there before tool calls
        ([piece(function_call={"name": "f", "arguments": ""}), piece(function_call={"arguments": A[1]})], [("", *A)]),
        ([piece(tool_calls=call(*A, index=0, id="a"))], [("a", *A)]),
        ([piece(tool_calls=[None, 7, {"function": 3}, call(*A, id="a")])], [("", "", ""), ("a", *A)]),
    ],
)  # fmt: skip
async def test_tool_calls(
    server: FakeOpenAI, make: Make, chunks: list[Any], expected: list[tuple[str, str, str]]
) -> None:
    server.script(events(*chunks, piece(finish="tool_calls")))
    done = await make().complete(HELLO)
    found = [(one["id"], one["function"]["name"], one["function"]["arguments"]) for one in done.tool_calls]
    assert found == expected
    assert {one["type"] for one in done.tool_calls} == {"function"}


async def test_what_else_a_tool_call_holds_is_kept(server: FakeOpenAI, make: Make) -> None:
    signature = {"google": {"thought_signature": "abc"}}
    server.script(events(calls(call(*A, index=0, id="a", extra_content=signature)), piece(finish="tool_calls")))
    assert (await make().complete(HELLO)).tool_calls[0]["extra_content"] == signature


@pytest.mark.parametrize(
    "nothing",
    [
        b"data:\n\n",
        b"data: \n\n",
        b"data\n\n",
        b": ping\n\n",
        b":\n",
        b"event: ping\ndata: {}\n\n",
        b'event: ping\ndata: {"type": "ping"}\n\n',
        b"data: ping\n\n",
        b"data: [PING]\n\n",
        b"data: keep-alive\n\n",
        b"data: null\n\n",
        b"data: {}\n\n",
        b"data: : OPENROUTER PROCESSING\n\n",
        b'data: {"type": "ping"}\n\n',
        b"\n\n",
        b"event: heartbeat\n\n",
        b"id: 7\n\n",
    ],
)
async def test_keep_alives_are_no_data(server: FakeOpenAI, make: Make, nothing: bytes) -> None:
    """modelcontextprotocol/python-sdk#1670"""
    server.script(paced(nothing, piece("Hel"), nothing, nothing, piece("lo"), nothing, STOP, nothing))
    assert await make().generate(HELLO) == "Hello"


LLAMA = b'error: {"code": 500, "message": "boom", "type": "server_error"}\n\n'


@pytest.mark.parametrize(
    "wrong",
    [
        LLAMA,  # ggml-org/llama.cpp#16109
        b"error: boom\n\n",
        b'event: error\ndata: {"message": "boom"}\n\n',
        b"event: error\ndata: boom\n\n",
        b'data: {"error": "boom"}\n\n',
        b'data: {"error": {"message": "boom", "code": %s}}\n\n' % (b"1" * 5000),
        b'data: {"error": ' + b"[" * 2000 + b'"boom"' + b"]" * 2000 + b"}\n\n",
        b'data: {"object": "error", "message": "boom"}\n\n',
        b'data: {"type": "error", "error": {"message": "boom"}}\n\n',
        b'data: {"message": "boom", "code": "InternalError"}\n\n',
        b'data: {"code": 1234, "msg": "boom"}\n\n',
        b'data: {"error_code": 336000, "error_msg": "boom"}\n\n',
        b'data: {"errors": [{"message": "boom"}], "success": false}\n\n',
        b'data: {"base_resp": {"status_code": 1004, "status_msg": "boom"}, "choices": null}\n\n',
        b'data: {"fault": {"faultstring": "boom"}}\n\n',
        b'data: {"choices": [{"delta": {}, "error": {"message": "boom"}, "finish_reason": "error"}]}\n\n',
        b'data: {"choices": [{"delta": {"content": ""}, "finish_reason": null}], "error": {"message": "boom"}}\n\n',
        b'data: {"choices": [{"delta": {}, "finish_reason": "error"}]}\n\n',
        b'data: {"choices": [{"delta": {}, "finish_reason": "network_error"}]}\n\n',
        b"data: Internal Server Error\n\n",
        b'{"error": "boom"}\n',
        b"data: {not json\n\n",
        b'data: {"message": "boom"}\n\n',  # Kong's and AWS's gateways
        b'data: {"__type": "ThrottlingException", "message": "boom"}\n\n',
        b'data: {"type": "about:blank", "title": "boom", "status": 502}\n\n',  # RFC 9457
        b'data: {"error": 500, "message": "boom"}\n\n',
        b'data: {"error": true, "message": "boom"}\n\n',
        b'data: {"status": "failed", "reason": "boom"}\n\n',
        b'data: {"ok": false, "description": "boom"}\n\n',
        b'data: {"header": {"code": 10013, "message": "boom"}}\n\n',
        b'data: {"type": "response.failed", "response": {"error": {"code": "server_error", "message": "boom"}}}\n\n',
        b'data: {"data": {"error": "boom"}}\n\n',
        b'data: {"choices": [{"delta": {}}], "x_groq": {"error": "boom"}}\n\n',
        b'data: {"choices": [{"delta": {}, "finish_reason": "stop", "native_finish_reason": "network_error"}]}\n\n',
        b'data: {"choices": [{"delta": {}, "finish_reason": "MALFORMED_FUNCTION_CALL"}]}\n\n',
        b'data: "{\\"error\\": \\"boom\\"}"\n\n',
        b'data: data: {"error": "boom"}\n\n',
        b"data: " * 5000 + b"\n\n" + b"data: {\n\n",
        b'data: {"choices": [{"delta": {}, "error": ' + b"[" * 900 + b"]" * 900 + b"}]}\n\ndata: {\n\n",
    ],
)
@pytest.mark.parametrize("after", ["text", "nothing"])
async def test_every_shape_of_error_is_one(server: FakeOpenAI, make: Make, wrong: bytes, after: str) -> None:
    server.script(paced(*([piece("Hel")] if after == "text" else []), wrong))
    with pytest.raises(LLMError) as caught:
        await make().generate(HELLO)
    assert caught.value.partial == ("Hel" if after == "text" else "")


@pytest.mark.parametrize("chunks", [[], [piece("", role="assistant")], [{"choices": []}]])
async def test_done_alone_is_no_answer(server: FakeOpenAI, make: Make, chunks: list[Any]) -> None:
    server.script(events(*chunks))
    with pytest.raises(LLMError):
        await make().generate(HELLO)


async def test_an_empty_answer_is_one(server: FakeOpenAI, make: Make) -> None:
    server.script(events(piece("", role="assistant"), STOP))
    assert await make().generate(HELLO) == ""


async def test_llamas_error_has_its_status(server: FakeOpenAI, make: Make) -> None:
    server.script(stream_bytes(LLAMA + b"data: [DONE]\n\n"))
    with pytest.raises(ServerError, match="boom") as caught:
        await make().generate(HELLO)
    assert caught.value.status == 500


@pytest.mark.parametrize("choices", [5, "x", {}, {"0": {}}, [5], [None], [[]], [{"delta": 7}], [{"index": "a"}], True])
async def test_choices_of_any_type(server: FakeOpenAI, make: Make, choices: object) -> None:
    server.script(reply(200, {"choices": choices}), events({"choices": choices}, piece("Hello"), STOP))
    with pytest.raises(LLMError):
        await make().generate(HELLO)
    assert await make().generate(HELLO) == "Hello"


@pytest.mark.parametrize(
    "news",
    [
        {"code": 0, "msg": "success"},
        {"code": "200", "message": "OK", "success": True},
        {"status": "processing", "message": "waiting for a worker"},
        {"type": "info", "message": "in the queue"},
        {"usage": {"prompt_tokens": 1}},
        {"sources": [{"title": "a page"}]},
        {"error": None},
        {"response": {"error": None}},
        json.dumps({"rate_limit_usage": {"tokens": 1}}),
    ],
)
async def test_news_are_no_errors(server: FakeOpenAI, make: Make, news: Any) -> None:
    server.script(events(news, piece("Hel"), news, piece("lo"), STOP, news))
    assert await make().generate(HELLO) == "Hello"


DUMPED = [json.dumps(one).encode() for one in (piece("Hel"), piece("lo"), STOP)]
COMPLETION = {"choices": [{"message": {"role": "assistant", "content": "Hello"}, "finish_reason": None}]}


@pytest.mark.parametrize(
    "body",
    [
        b"".join(b"data: data: %s\n\n" % one for one in DUMPED) + b"data: data: [DONE]\n\n",
        b"".join(b"data: data: %s\r\ndata: \r\ndata: \r\n\r\n" % one for one in DUMPED),  # sse-starlette, twice
        b"".join(b"data: %s\n\n" % json.dumps(one.decode()).encode() for one in DUMPED),  # JSON within JSON
        b"".join(b"%s\n" % one for one in DUMPED),  # JSON lines
        b"[" + b",\n".join(DUMPED) + b"]",
        b"".join(b"data: %s\n" % one for one in DUMPED) + b"data: DONE\n",
        b'data: {"object": "text_completion", "choices": [{"text": "Hello", "finish_reason": "stop"}]}\n\n',
        b'data: {"choices": [{"delta": {"content": {"type": "text", "text": "Hello"}}, "finish_reason": "stop"}]}\n\n',
        json.dumps(COMPLETION).encode(),  # Ollama's whole answers have no reason (pydantic/pydantic-ai#2996)
        json.dumps(COMPLETION).encode() + b"\n",
        json.dumps(COMPLETION, indent=1).encode(),
        b"data: %s\n\ndata: [DONE]\n\n" % json.dumps(COMPLETION).encode(),
    ],
)
@pytest.mark.parametrize("type_", ["text/event-stream", "application/json"])
async def test_an_answer_in_other_wrappings(server: FakeOpenAI, make: Make, body: bytes, type_: str) -> None:
    server.script(stream_bytes(body, type_=type_), stream_bytes(body, type_=type_, cuts=tuple(range(1, len(body), 7))))
    client = make()
    assert await client.generate(HELLO) == "Hello"
    assert await client.generate(HELLO) == "Hello"


async def test_an_error_in_a_list_of_chunks(server: FakeOpenAI, make: Make) -> None:
    server.script(reply(200, [piece("Hel"), {"error": {"message": "boom", "code": 503}}]))
    with pytest.raises(ServerError, match="boom") as caught:
        await make().generate(HELLO)
    assert caught.value.partial == "Hel"


async def test_json_lines_that_stop_are_cut_short(server: FakeOpenAI, make: Make) -> None:
    for body in (DUMPED[0] + b"\n" + DUMPED[1] + b"\n", DUMPED[0]):
        server.script(stream_bytes(body, type_="application/json"))
        with pytest.raises(LLMError):
            await make().generate(HELLO)


@pytest.mark.parametrize("indices", [(1, 2, 3), (0, 1, 1), (-1, -1, -1), (1, 1, 1)])
async def test_the_index_of_the_only_choice_says_nothing(
    server: FakeOpenAI, make: Make, indices: tuple[int, ...]
) -> None:
    """huggingface/text-generation-inference#1648, BerriAI/litellm#23178"""
    bodies = [piece("Hel"), piece("lo"), piece(finish="stop")]
    for body, index in zip(bodies, indices, strict=True):
        body["choices"][0]["index"] = index
    server.script(events(*bodies))
    assert await make().generate(HELLO) == "Hello"


async def test_of_several_choices_the_first_counts(server: FakeOpenAI, make: Make) -> None:
    other = {"choices": [{"index": 1, "delta": {"content": "other"}, "finish_reason": "stop"}]}
    server.script(events(other, piece("Hel"), other, piece("lo"), STOP))
    assert await make().generate(HELLO, n=2) == "Hello"


@pytest.mark.parametrize(
    "delta",
    [
        {"reasoning": "hm"},
        {"reasoning_content": "hm", "reasoning": "hm"},
        {"thinking": "hm"},
        {"reasoning_text": "hm"},
        {"reasoning": {"content": "hm"}},
        {"reasoning_details": [{"type": "reasoning.text", "text": "hm"}, {"type": "reasoning.encrypted", "data": "x"}]},
        {"reasoning_details": [{"type": "reasoning.summary", "summary": "hm"}]},
        {"reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
        {"content": [{"type": "thinking", "thinking": "hm"}]},
    ],
)
async def test_reasoning_under_any_name(server: FakeOpenAI, make: Make, delta: dict[str, Any]) -> None:
    server.script(events({"choices": [{"delta": delta}]}, piece("Hello"), STOP))
    done = await make().complete(HELLO)
    assert (done.text, done.reasoning) == ("Hello", "hm")


@pytest.mark.parametrize(
    "last",
    [
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
        {"usage": {"prompt_tokens": "3", "completion_tokens": 2.0}},
        {"usage": {"input_tokens": 3, "output_tokens": 2}},
        {"choices": [{"delta": {}}], "x_groq": {"id": "r", "usage": {"prompt_tokens": 3, "completion_tokens": 2}}},
        {"choices": [{"delta": {}, "usage": {"prompt_tokens": 3, "completion_tokens": 2}}]},
    ],
)
async def test_usage_in_any_place(server: FakeOpenAI, make: Make, last: dict[str, Any]) -> None:
    zeros = {"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}}
    server.script(events(piece("Hello"), STOP, last, zeros))
    usage = (await make().complete(HELLO)).usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (3, 2)


async def test_text_that_is_no_stream_of_events_is_quoted(server: FakeOpenAI, make: Make) -> None:
    server.script(stream_bytes(b"upstream connect error or disconnect before headers"))
    with pytest.raises(UnexpectedResponseError, match="upstream connect error"):
        await make().generate(HELLO)


async def test_mistrals_thoughts(server: FakeOpenAI, make: Make) -> None:
    thinking = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "Hello"}]
    server.script(events(piece(content=thinking), STOP))
    done = await make().complete(HELLO)
    assert (done.text, done.reasoning) == ("Hello", "hm")


async def test_half_a_character_before_another_chunk(server: FakeOpenAI, make: Make) -> None:
    halves = b'data: {"choices":[{"delta":{"content":"a\\ud83d"}}]}\n\n'
    server.script(paced(halves, piece("b"), STOP))
    assert await make().generate(HELLO) == "a\ufffdb"


async def test_a_503_that_says_when(server: FakeOpenAI, make: Make) -> None:
    server.script(reply(503, {"error": {"message": "loading"}}, retry_after="1"))
    assert await make(max_retries=1).generate(HELLO) == "Hello"
    server.script(reply(429, "", retry_after="9"))
    with pytest.raises(RateLimitedError) as caught:
        await make().generate(HELLO)
    assert caught.value.retry_after == 9


async def test_a_request_id_is_masked(server: FakeOpenAI, make: Make) -> None:
    server.script(reply(500, "", x_request_id=f"id-{KEY}"))
    with pytest.raises(ServerError) as caught:
        await make().generate(HELLO)
    assert caught.value.request_id == "id-***"
