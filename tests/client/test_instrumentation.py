"""Instrumentations of the openai client see through ours what they see through theirs, and cost no truth."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import pytest
from openai import AsyncOpenAI
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from client import AuthenticationError, BadRequestError, LLMError, StreamInterruptedError, UnexpectedResponseError
from tests.client.conftest import KEY
from tests.support.fake_openai import FakeOpenAI, events, piece, reply, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from client import LLMClient

PROMPT = [{"role": "user", "content": "a prompt that is seen"}]


@pytest.fixture(
    params=[
        "openinference.instrumentation.openai",  # wraps `request`
        "opentelemetry.instrumentation.openai_v2",  # wraps `create`
    ]
)
def spans(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[Any]]]:
    """Return what returns the spans since the last time, as name, attributes and status."""
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "gen_ai_latest_experimental")
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "span_only")
    kept, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    instrumentor = importlib.import_module(request.param).OpenAIInstrumentor()
    instrumentor.instrument(tracer_provider=provider)

    def seen() -> list[Any]:
        found = [(s.name, dict(s.attributes or {}), s.status.status_code.name) for s in kept.get_finished_spans()]
        kept.clear()
        return found

    yield seen
    instrumentor.uninstrument()


async def test_they_see_the_same(
    server: FakeOpenAI, make: Callable[..., LLMClient], spans: Callable[[], list[Any]]
) -> None:
    async with AsyncOpenAI(base_url=server.base_url, api_key=KEY) as plain:
        stream = await plain.chat.completions.create(  # type: ignore[call-overload]
            model="fake",
            messages=PROMPT,  # type: ignore[arg-type]
            max_tokens=5,
            temperature=0.5,
            top_p=0.9,
            stream=True,
            stream_options={"include_usage": True},
        )
        async for _ in stream:
            pass
    [expected] = spans()
    assert "a prompt that is seen" in str(expected)
    answer = await make().complete(PROMPT, 5, 0.5, top_p=0.9)
    assert (answer.text, answer.finish_reason, answer.request_id) == ("Hello", "stop", "req-1")
    assert answer.usage is not None
    assert spans() == [expected]
    assert server.requests[0].json == server.requests[1].json


@pytest.mark.parametrize(
    ("respond", "expected", "partial"),
    [
        (say("a", finish=None, done=False), StreamInterruptedError, "a"),
        (reply(200, {"error": {"message": "bad", "code": 400}}), BadRequestError, ""),
        (events(piece("a"), {"error": {"message": "bad", "code": 400}}), BadRequestError, "a"),
        (events(piece("a"), {"object": "error", "message": "bad", "code": 400}), BadRequestError, "a"),
        (reply(200, "<html>sign in</html>", "text/html"), UnexpectedResponseError, ""),
        (reply(401, {}), AuthenticationError, ""),
    ],
)
async def test_an_error_stays_one(
    server: FakeOpenAI,
    make: Callable[..., LLMClient],
    spans: Callable[[], list[Any]],
    respond: Any,
    expected: type[LLMError],
    partial: str,
) -> None:
    server.script(respond)
    with pytest.raises(expected) as caught:
        await make().generate(PROMPT)
    assert caught.value.partial == partial
    assert len(spans()) == 1


async def test_leaving_stops_the_server_and_ends_the_span(
    server: FakeOpenAI, make: Callable[..., LLMClient], spans: Callable[[], list[Any]]
) -> None:
    server.script(say(*["la "] * 1000, delay=0.01))
    async for _ in make().generate_streaming(PROMPT):
        break
    await server.requests[0].wait_gone()
    assert len(spans()) == 1
