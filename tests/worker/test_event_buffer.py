"""Whatever the cuts in the bytes, whole events come out, and all of the text."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.event_buffer import EventBuffer

data = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\r\n"), min_size=1)


def feed_in_pieces(buffer, raw, cuts):
    borders = sorted({0, len(raw), *(cut % (len(raw) + 1) for cut in cuts)})
    return [text for start, end in itertools.pairwise(borders) for text in buffer.feed(raw[start:end])]


@given(st.lists(data, min_size=1), st.lists(st.integers(min_value=0)), st.sampled_from(["\n\n", "\r\n\r\n"]))
def test_any_cut_gives_whole_events_and_the_whole_text(events, cuts, border):
    text = "".join(f"data: {event}{border}" for event in events)
    buffer = EventBuffer(limit=100_000)
    given_out = feed_in_pieces(buffer, text.encode(), cuts)
    assert "".join(given_out) == text
    assert all(part.startswith("data: ") and part.endswith(border) for part in given_out)
    assert not buffer.pending


@given(st.lists(data, min_size=1), st.lists(st.integers(min_value=0)), st.integers(min_value=4, max_value=60))
def test_no_piece_is_over_the_limit_and_none_cuts_a_character(events, cuts, limit):
    text = "".join(f"data: {event}\n\n" for event in events)
    pieces = feed_in_pieces(EventBuffer(limit), text.encode(), cuts)
    assert "".join(pieces) == text
    assert all(len(piece.encode()) <= limit for piece in pieces)


def test_events_within_the_limit_stay_whole():
    buffer = EventBuffer(limit=30)
    pieces = list(buffer.feed(b"".join(b"data: 0123456789\n\n" for _ in range(5))))
    assert pieces == ["data: 0123456789\n\n"] * 5


def test_a_beginning_of_an_event_waits_for_its_end():
    buffer = EventBuffer(limit=100)
    assert list(buffer.feed("data: h\u00e9".encode()[:-1])) == []
    assert buffer.pending
    assert list(buffer.feed("\u00e9".encode()[1:] + b"\n")) == []
    assert list(buffer.feed(b"\n")) == ["data: h\u00e9\n\n"]
    assert not buffer.pending


@pytest.mark.parametrize("raw", [b"data: \xff\n\n", b"data: \xe2\x82\n\n"])
def test_bytes_that_are_no_text_do_not_end_the_stream(raw):
    (text,) = EventBuffer(limit=100).feed(raw)
    assert "\ufffd" in text
