"""What is told of a request: once, whatever its end, and without a word of what was said."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes

import client.sync
from client import ConfigurationError, LLMClient, LLMError, RequestEnd
from client.testing import FakeLLMClient
from tests.support.fake_openai import FakeOpenAI, events, piece, reply, say, stall

Make = Callable[..., LLMClient]
PROMPT = [{"role": "user", "content": "a secret question"}]
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


async def test_an_answer(server: FakeOpenAI, make: Make) -> None:
    ends: list[RequestEnd] = []
    server.script(events(piece("a secret "), piece("answer"), piece(finish="length"), {"choices": [], "usage": USAGE}))
    await make(on_request_end=ends.append, model="m").generate(PROMPT)
    [end] = ends
    assert (end.operation, end.model, end.endpoint) == ("chat", "m", server.base_url)
    assert (end.finish_reason, end.error, end.status) == ("length", None, None)
    assert (end.prompt_tokens, end.completion_tokens, end.cached_tokens, end.reasoning_tokens) == (7, 5, 4, 2)
    assert not end.estimated
    assert end.time_to_first_token is not None
    assert 0 < end.time_to_first_token <= end.duration
    assert (end.request_id, end.response_model) == ("chatcmpl-1", "fake")
    assert "secret" not in repr(end)


@pytest.mark.parametrize(
    ("respond", "error", "status"),
    [
        (reply(429, {"error": {"message": "a secret question is one too many"}}), "RateLimitedError", 429),
        (reply(404, {"error": {"message": "no such model"}}), "ModelNotFoundError", 404),
        (say("a secret ", finish=None, done=False), "StreamInterruptedError", 200),
        (stall, "LLMTimeoutError", None),
    ],
)
async def test_a_failure(server: FakeOpenAI, make: Make, respond: Any, error: str, status: int | None) -> None:
    ends: list[RequestEnd] = []
    server.script(respond)
    with pytest.raises(LLMError):
        await make(on_request_end=ends.append, first_token_timeout=0.3).generate(PROMPT)
    [end] = ends
    assert (end.error, end.status, end.finish_reason) == (error, status, None)
    assert end.completion_tokens == (1 if "Interrupted" in error else 0)
    assert end.duration > 0
    assert "secret" not in repr(end)


async def test_retries_and_the_fallback_are_one_request(server: FakeOpenAI, make: Make) -> None:
    ends: list[RequestEnd] = []
    server.script(reply(503, ""))
    await make(on_request_end=ends.append, max_retries=1).generate(PROMPT)
    assert [(end.retries, end.error) for end in ends] == [(1, None)]
    async with FakeOpenAI() as other:
        server.script(reply(500, ""))
        await make(on_request_end=ends.append, fallback_base_url=other.base_url, fallback_model="second").generate(
            PROMPT
        )
        assert (ends[1].endpoint, ends[1].model, ends[1].error) == (other.base_url, "second", None)
    assert len(ends) == 2


async def test_leaving_is_told_too(server: FakeOpenAI, make: Make) -> None:
    ends: list[RequestEnd] = []
    server.default = say(*["la "] * 1000, delay=0.01)
    llm = make(on_request_end=ends.append)
    async for _ in llm.generate_streaming(PROMPT):
        break
    await server.requests[0].wait_gone()
    assert [(end.error, end.finish_reason, end.completion_tokens) for end in ends] == [(None, None, 1)]

    task = asyncio.create_task(llm.generate(PROMPT))
    while len(server.requests) < 2:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [end.error for end in ends[1:]] == ["CancelledError"]

    stream = llm.stream(PROMPT)
    await anext(stream)
    del stream
    await server.requests[2].wait_gone()
    assert [end.error for end in ends[2:]] == [None]

    async with llm.stream(PROMPT):
        pass  # no request
    assert len(ends) == 3


async def test_a_wait_for_a_slot_is_part_of_it(server: FakeOpenAI, make: Make) -> None:
    ends: list[RequestEnd] = []
    server.script(stall, stall)
    llm = make(on_request_end=ends.append, max_concurrency=1, total_timeout=0.3, model="m")
    await asyncio.gather(llm.generate(PROMPT), llm.generate(PROMPT), return_exceptions=True)
    assert [(end.model, end.endpoint, end.error) for end in ends] == [("m", server.base_url, "LLMTimeoutError")] * 2


async def test_a_callback_that_raises_breaks_nothing(
    server: FakeOpenAI, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(end: RequestEnd) -> None:
        raise ZeroDivisionError

    llm = make(on_request_end=fail)
    assert [piece async for piece in llm.generate_streaming(PROMPT)] == ["Hel", "lo"]
    server.script(reply(400, {}))
    with pytest.raises(LLMError):
        await llm.generate(PROMPT)
    assert caplog.messages == ["on_request_end failed"] * 2


def test_a_callback_that_cannot_be_called_is_refused(make: Make) -> None:
    async def later(end: RequestEnd) -> None: ...

    for given in (later, 5):
        with pytest.raises(ConfigurationError, match="on_request_end"):
            LLMClient(on_request_end=given)  # type: ignore[arg-type]


def test_the_synchronous_client_tells_it_too() -> None:
    ends: list[RequestEnd] = []
    with client.sync.LLMClient.over(FakeLLMClient("Hi", on_request_end=ends.append)) as llm:
        assert llm.generate(PROMPT) == "Hi"
    assert [(end.model, end.finish_reason, end.estimated) for end in ends] == [("fake", "stop", True)]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[ReadableSpan]]]:
    """Turn traces on; return what returns the spans since the last time."""
    kept, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    monkeypatch.setenv("LLM_TRACES", "1")

    def seen() -> list[ReadableSpan]:
        found = list(kept.get_finished_spans())
        kept.clear()
        return found

    yield seen
    provider.shutdown()


async def test_a_span(server: FakeOpenAI, make: Make, spans: Callable[[], list[ReadableSpan]]) -> None:
    server.script(events(piece("a secret answer", finish="stop"), {"choices": [], "usage": USAGE}))
    await make(model="m").generate(PROMPT, 9, 0.5, top_k=3, seed=1, n=1, stop=["secret"], user="secret")
    [span] = spans()
    found = dict(span.attributes or {})
    assert (span.name, span.kind, span.status.status_code.name) == ("chat m", trace.SpanKind.CLIENT, "UNSET")
    assert 0 < found.pop("gen_ai.response.time_to_first_chunk") < 60  # type: ignore[operator]
    assert found == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "m",
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_k": 3,
        "gen_ai.request.seed": 1,
        "gen_ai.request.stream": True,
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.model": "fake",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "gen_ai.usage.reasoning.output_tokens": 2,
        "server.address": "127.0.0.1",
        "server.port": server.port,
    }
    known = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_")}
    assert {name for name in found if name.startswith("gen_ai.")} <= known
    assert "secret" not in span.to_json()


async def test_a_span_of_a_failure(server: FakeOpenAI, make: Make, spans: Callable[[], list[ReadableSpan]]) -> None:
    server.script(reply(400, {"error": {"message": "a secret question is too long"}}))
    with pytest.raises(LLMError):
        await make().generate(PROMPT)
    [span] = spans()
    assert (span.attributes or {})["error.type"] == "BadRequestError"
    assert span.status.status_code.name == "ERROR"
    assert "secret" not in span.to_json()


async def test_spans_of_the_layers_below_belong_to_it(
    server: FakeOpenAI, make: Make, spans: Callable[[], list[ReadableSpan]]
) -> None:
    llm = make()
    sent = llm.client.chat.completions.create
    tracer = trace.get_tracer("below")

    async def create(**arguments: Any) -> Any:
        with tracer.start_as_current_span("POST"):
            return await sent(**arguments)

    llm.client.chat.completions.create = create  # type: ignore[assignment, method-assign]
    with tracer.start_as_current_span("above"):
        await llm.generate(PROMPT)
        assert trace.get_current_span().get_span_context() is not None
    below, own, above = spans()
    assert (below.name, own.name, above.name) == ("POST", "chat fake", "above")
    assert below.parent is not None
    assert own.parent is not None
    assert (below.parent.span_id, own.parent.span_id) == (own.context.span_id, above.context.span_id)


async def test_no_spans_unless_they_are_wanted(
    server: FakeOpenAI, make: Make, spans: Callable[[], list[ReadableSpan]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLM_TRACES")
    await make().generate(PROMPT)
    assert spans() == []


def test_traces_without_opentelemetry_say_what_is_missing() -> None:
    code = """
import sys
sys.modules["opentelemetry"] = None
from client import ConfigurationError, LLMClient
LLMClient()
import os
os.environ["LLM_TRACES"] = "1"
try:
    LLMClient()
except ConfigurationError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=client.__path__[0] + "/.."
    )
    assert "pip install opentelemetry-api" in done.stdout
