"""Exactly the text, however the bytes are cut and whatever a server puts around them."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client._wire.answer import Answer
from client._wire.body import BodyReader
from client._wire.sse import EventDecoder
from tests.support.fake_openai import piece

NEWLINES = st.sampled_from(["\n", "\r\n", "\r"])
NOISE = st.sampled_from(
    [": ping", ":", "", "event: message", "id: 7", "retry: 10", "unknown: field", "event:", "data-ish: x", "nocolon"]
)
CHUNKS_OF_NO_TEXT = st.sampled_from(
    [
        {"choices": []},
        {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}},
        {"choices": None},
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
        {"choices": [{"index": 0, "delta": {"content": None}}]},
        {"choices": [{"index": 1, "delta": {"content": "the second choice"}}]},
        {"choices": [{"index": 0, "delta": None}]},
        {"choices": [{}], "created": 1.5, "unknown": {"deep": [1, None]}},
    ]
)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[str]]:
    """Return the bytes of a stream and the pieces of text in it."""
    newline = draw(NEWLINES)
    texts = draw(st.lists(st.text(min_size=1), min_size=1, max_size=6))
    lines: list[str] = ["\ufeff" if draw(st.booleans()) else ""]
    first = True
    for text in texts:
        for body in [*draw(st.lists(CHUNKS_OF_NO_TEXT, max_size=2)), piece(text)]:
            lines += draw(st.lists(NOISE.filter(bool), max_size=2)) + ([""] if draw(st.booleans()) else [])
            dumped = json.dumps(body, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, None, 1])))
            space = draw(st.sampled_from([" ", ""]))
            lines += [f"data:{space}{line}" for line in dumped.split("\n")]
            lines.append("")
            if first:
                lines[0], lines[1:] = lines[0] + (lines[1] if len(lines) > 1 else ""), lines[2:]
                first = False
    lines += [f"data:{draw(st.sampled_from([' ', '']))}[DONE]", ""]
    sent = newline.join([*lines, ""]).encode("utf-8", "surrogatepass")
    return sent, texts


def texts_of(pieces: list[bytes]) -> list[str]:
    answer = Answer(several=True)
    reader = BodyReader(answer, typed=True)
    assert any(reader.take(part) for part in pieces) or reader.end()
    return list(answer.ready)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    marks = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:stop] for start, stop in pairwise(marks)]


@given(streams(), st.lists(st.integers(min_value=0), max_size=30))
def test_any_cut_gives_the_same_text(stream: tuple[bytes, list[str]], places: list[int]) -> None:
    data, texts = stream
    assert texts_of(cut(data, places)) == texts


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None)
@given(streams(), st.lists(st.integers(min_value=0), max_size=30))
def test_ten_thousand_cuts_give_the_same_text(stream: tuple[bytes, list[str]], places: list[int]) -> None:
    data, texts = stream
    assert texts_of(cut(data, places)) == texts


@given(streams())
def test_byte_by_byte(stream: tuple[bytes, list[str]]) -> None:
    data, texts = stream
    assert texts_of([data[place : place + 1] for place in range(len(data))]) == texts


@pytest.mark.parametrize(
    ("sent", "events"),
    [
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data: a\r\n\r\ndata:b\r\rdata:  c\n\n", [b"a", b"b", b" c"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data\n\n", [b""]),
        (b": x\n\n\n\nid: 1\n\nevent: e\n\ndata: a\n\n", [b"a"]),
        (b"data: a\n\n data: b\n\n", [b"a"]),
    ],
)
def test_events(sent: bytes, events: list[bytes]) -> None:
    for places in ([], list(range(len(sent)))):
        decoder = EventDecoder()
        found = [event.data for part in cut(sent, places) for event in decoder.feed(part)]
        assert found + [event.data for event in decoder.finish()] == events


def test_error_events_are_told_apart() -> None:
    decoder = EventDecoder()
    first, second = decoder.feed(b"event: error\ndata: a\n\ndata: b\n\n")
    assert (first.is_error, second.is_error) == (True, False)


def test_chunks_without_a_blank_line_between_them() -> None:
    first, second = (json.dumps(piece(text)).encode() for text in ("Hel", "lo"))
    assert texts_of([b"data: " + first + b"\ndata: " + second + b"\n\ndata: [DONE]\n\n"]) == ["Hel", "lo"]


def test_bytes_that_are_not_utf8_cost_only_themselves() -> None:
    sent = b'data: {"choices":[{"delta":{"content":"a\xffb"}}]}\n\ndata: [DONE]\n\n'
    assert texts_of([sent]) == ["a\ufffdb"]


def test_content_parts() -> None:
    body = {"choices": [{"delta": {"content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]}}]}
    assert texts_of([b"data: " + json.dumps(body).encode() + b"\n\ndata: [DONE]\n\n"]) == ["Hello"]


def test_a_character_cut_between_two_chunks() -> None:
    halves = [
        b'data: {"choices":[{"delta":{"content":"a\\ud83d"}}]}',
        b'data: {"choices":[{"delta":{"content":"\\ude00b"}}]}',
    ]
    assert texts_of([b"\n\n".join([*halves, b"data: [DONE]", b""])]) == ["a", "\U0001f600b"]
