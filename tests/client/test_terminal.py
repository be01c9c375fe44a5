"""What makes foreign text safe for a terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.terminal import Sanitizer, sanitize, sanitize_line

BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
# What sequences are made of, so that chance finds whole ones, broken ones and nested ones.
_SEQUENCES = [
    "\x1b",
    "[",
    "]",
    "P",
    "k",
    "0;",
    "52;c;",
    "?25",
    "31",
    "m",
    "h",
    "\x07",
    "\\",
    "\x9b",
    "\x9d",
    "\x9c",
    "\x18",
]
_OTHERS = ["\n", "\t", "\r", "\b", "\x00", "\x7f", "\x85", " ", "a", "Paris", "é", "北", "👩‍👧", "\ud83d", *BIDI]
_FRAGMENTS = st.sampled_from([*_SEQUENCES, *_OTHERS])
TEXT = st.lists(_FRAGMENTS | st.text(max_size=3), max_size=20).map("".join)


def obeyed(char: str) -> bool:
    return (unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t") or char in BIDI


@settings(max_examples=200, deadline=None)
@given(TEXT)
def test_nothing_is_left_that_a_terminal_obeys(text: str) -> None:
    shown = sanitize(text)
    assert not any(map(obeyed, shown))
    assert sanitize(shown) == shown
    assert shown.count("\n") == text.count("\n")  # no line is hidden, none is added


@settings(max_examples=200, deadline=None)
@given(TEXT, st.data())
def test_it_is_the_same_under_every_cut(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=len(text))))
    sanitizer = Sanitizer()
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert "".join(map(sanitizer.feed, pieces)) == sanitize(text)


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters=BIDI, include_characters="\n\t")))
def test_other_text_stays_as_it_is(text: str) -> None:
    assert sanitize(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x9b1;31mred\x9bm", "red"),
        ("\x1b[2J\x1b[H\x1b[?1049hclear", "clear"),
        ("\x1b]52;c;cm0gLXJm\x07clipboard", "clipboard"),
        ("\x1b]0;title\x1b\\title", "title"),
        ("\x9d0;title\x9ctitle", "title"),
        ("\x1b]8;;http://x\x1b\\a link\x1b]8;;\x1b\\", "a link"),
        ("\x1bPq#0;2\x1b\\sixel", "sixel"),
        ("\x1bPtmux;\x1b\x1b]52;c;eA==\x07\x1b\\through tmux", "through tmux"),
        ("\x1b_apc\x1b\\\x1b^pm\x1b\\\x1bXsos\x1b\\\x1bktitle\x1b\\strings", "strings"),
        ("\x1bc\x1b(0\x1b7\x1b#8reset", "reset"),
        ("\x1b]never closed\nnext line", "\nnext line"),
        ("\x1b[3\x001mred", "red"),
        ("\x1b[31", ""),
        ("\x1b[é", "é"),
        ("ab\b\b\rcd\r\n\tef\x85", "abcd\n\tef"),
        ("user\u202egnp.exe", "usergnp.exe"),
        ("half \ud83d", "half \ufffd"),
        ("👩‍👧 na\u0308iv", "👩‍👧 na\u0308iv"),
    ],
)
def test_cases(text: str, shown: str) -> None:
    assert sanitize(text) == shown


def test_a_line() -> None:
    assert sanitize_line("a\x1b[1m name\r\nwith\tmore\n") == "a name with more"


def test_a_long_hostile_text_takes_time_in_proportion() -> None:
    text = "\x1b" * 50_000 + "\x1b]" + "x" * 1_000_000 + "\x1b[1m\x1b" * 50_000
    assert sanitize(text) == ""
