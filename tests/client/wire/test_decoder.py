"""What comes out of a stream depends on its bytes, not on how they were cut: compared with a plain reference decoder."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client._wire.answer import Answer, CutShort, ErrorFound, NotAnAnswer
from client._wire.body import BodyReader
from client._wire.sse import Event
from tests.support.fake_openai import piece

Outcome = tuple[list[str], str | None, str, str]


def reference(body: bytes) -> tuple[list[Event], bool]:
    """Return the events of a whole body, line by line, and whether the body stops in the middle of the last."""
    body = body.lstrip()
    while body.startswith(b"\xef\xbb\xbf"):
        body = body[3:].lstrip()
    events: list[Event] = []
    data: list[bytes] = []
    name = b""
    unfinished = False
    lines = [*re.split(rb"\r\n|\r|\n", body), b""]
    for number, line in enumerate(lines):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line:
            if data and name not in (b"ping", b"heartbeat", b"keepalive", b"keep-alive"):
                events.append(Event(b"\n".join(data), name == b"error"))
                unfinished = number >= len(lines) - 2  # no blank line of the body has ended it
            data, name = [], b""
        elif field == b"data":
            data.append(value)
        elif field == b"event":
            name = value.strip().lower()
        elif field == b"error" and value.strip():
            events.append(Event(value, is_error=True))
        elif line.startswith((b"{", b"[DONE]")):
            events.append(Event(line))
    return events, unfinished


def outcome(feed: Any) -> Outcome:
    answer = Answer()
    try:
        ended = "whole" if feed(answer) else "cut"
    except ErrorFound as error:
        ended = f"error {error.error.message}"
    except NotAnAnswer as error:
        ended = f"no answer: {error.what}"
    except CutShort:
        ended = "given up"
    return list(answer.ready), answer.finish_reason, json.dumps([answer.tool_calls, answer.reasoning]), ended


def by_reference(body: bytes) -> Outcome:
    events, unfinished = reference(body)

    def feed(answer: Answer) -> bool:
        for number, event in enumerate(events):
            try:
                if answer.add(event):
                    return True
            except NotAnAnswer:
                if number == len(events) - 1 and unfinished:
                    break  # cut in the middle of an event
                raise
        return answer.finish_reason is not None

    return outcome(feed)


def by_reads(reads: list[bytes], *, typed: bool) -> Outcome:
    def feed(answer: Answer) -> bool:
        reader = BodyReader(answer, typed=typed)
        return any(reader.take(read) for read in reads) or reader.end()

    return outcome(feed)


def chunk(**choice: Any) -> str:
    return "data: " + json.dumps({"id": "c", "choices": [{"index": 0, **choice}]})


LINES = st.sampled_from(
    [
        "data: " + json.dumps(piece("Hel")),
        "data:" + json.dumps(piece("lö \U0001f600"), ensure_ascii=False),
        chunk(delta={"content": "x"}, finish_reason=""),
        chunk(delta={"content": "y"}, finish_reason="None"),
        chunk(delta={"reasoning": "hm"}, finish_reason="stop"),
        chunk(delta={}, finish_reason="stop"),
        chunk(delta={}, finish_reason="abort"),
        chunk(delta={"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{"}}]}),
        chunk(delta={"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]}),
        'data: {"choices":[{"delta":{"content":"\\ud83d"}}]}',
        'data: {"choices":[{"delta":{"content":"\\ude00"}}]}',
        "data: [DONE]",
        "data:[DONE]",
        "data",
        "data:",
        "data: ",
        "data: ping",
        "data: null",
        "data: : PROCESSING",
        'data: {"choices":',
        "data: {not json",
        'data: {"error": {"message": "boom"}}',
        "event: error",
        "event: ping",
        "event: message",
        ": ping",
        ":",
        "id: 7",
        "retry: 10",
        'error: {"code": 500, "message": "boom"}',
        '{"error": "bare"}',
        "unknown: x",
        "nocolon",
        "",
        "",
        "",
    ]
)
NEWLINE = st.sampled_from(["\n", "\n", "\r\n", "\r"])


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    start = draw(st.sampled_from(["", "", "\ufeff", "\n", " \r\n"]))
    first = draw(st.sampled_from(["data: " + json.dumps(piece("a")) + "\n", ": hello", "event: x", "data:", "id:1"]))
    lines = [first, *draw(st.lists(LINES, max_size=10))]
    newline = draw(NEWLINE)
    end = draw(st.sampled_from(["", newline, newline * 2]))
    return (start + newline.join(lines) + end).encode()


def cut(body: bytes, places: list[int]) -> list[bytes]:
    marks = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[start:stop] for start, stop in pairwise(marks) if stop > start]


@settings(max_examples=200, deadline=None)
@given(bodies(), st.lists(st.integers(min_value=0), max_size=20), st.booleans())
def test_every_cut_gives_what_the_reference_gives(body: bytes, places: list[int], typed: bool) -> None:
    expected = by_reference(body)
    assert by_reads([body], typed=typed) == expected
    assert by_reads(cut(body, places), typed=typed) == expected


@settings(max_examples=50, deadline=None)
@given(bodies(), st.booleans())
def test_byte_by_byte(body: bytes, typed: bool) -> None:
    assert by_reads([body[at : at + 1] for at in range(len(body))], typed=typed) == by_reference(body)


WHOLE = [
    json.dumps({"id": "1", "choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}).encode(),
    b'{"error": {"message": "boom"}}',
    b"<html><title>Log in</title>",
    b"dataset not found",
    b"identity unknown",
    b"  \n",
    b"",
    b"\xef\xbb",
]


@pytest.mark.parametrize("body", WHOLE)
@pytest.mark.parametrize("typed", [True, False])
def test_a_body_that_is_no_stream_is_one_under_every_cut(body: bytes, typed: bool) -> None:
    if typed and body[:1].isalpha():
        return  # under the type of events, lines of no known field
    whole = by_reads([body] if body else [], typed=typed)
    assert "stream" not in whole[3]
    for place in range(1, len(body)):
        assert by_reads([body[:place], body[place:]], typed=typed) == whole
    assert by_reads([body[at : at + 1] for at in range(len(body))], typed=typed) == whole


def test_a_long_stream_that_is_always_cut_in_an_event_is_not_too_large() -> None:
    event = b"data: " + json.dumps(piece("x" * 1000)).encode() + b"\n\n"
    data = event * 20
    reader = BodyReader(Answer(), typed=True)
    for _ in range(2**20 * 17 // len(data)):
        reader.take(data[-9:] if _ else b"")
        reader.take(data[:-9])


@pytest.mark.parametrize("fill", [b"data: x\n", b"x", b"data: " + b"x" * 1000])
def test_an_event_without_end_is_refused(fill: bytes) -> None:
    reader = BodyReader(Answer(), typed=True)
    reader.take(b": \n")

    def flood() -> None:
        for _ in range(400):
            reader.take(fill * (2**16 // len(fill)))

    with pytest.raises(NotAnAnswer, match="in one piece"):
        flood()
