"""What makes foreign text safe for a terminal: a model's answer, a server's error, a model's name, a log line.

A terminal obeys what it is shown: text can write to the clipboard (OSC 52), set the title, move the cursor over what
stands there, or turn the order of letters around. So whatever did not come from the kit passes here before it is shown.

Escape sequences are told as in ECMA-48 (5.3, 5.4, 5.6), in their 7-bit and their 8-bit forms. A control string that is
never closed ends with its line, so that it cannot hide the rest of an answer.
"""

from __future__ import annotations

import re

_INTRODUCERS = "\x1b\x90\x98\x9b\x9d\x9e\x9f"
# Control characters but newline and tab, the characters of Unicode's property Bidi_Control, and lone surrogates, which
# no terminal's encoding has.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_INTRODUCER = re.compile(f"[{_INTRODUCERS}]")

_TEXT, _ESCAPE, _SEQUENCE, _STRING = "text", "escape", "control sequence", "control string"
_BEGUN_BY = {"\x1b": _ESCAPE, "\x9b": _SEQUENCE}  # the other introducers begin a string
_AFTER_ESCAPE = {"[": _SEQUENCE, **dict.fromkeys("]PX^_k", _STRING)}  # k: a title, in screen and tmux
# What goes on inside each; the character after it decides.
_INSIDE = {
    _ESCAPE: re.compile("[ -/]*"),
    _SEQUENCE: re.compile("[ -?]*"),
    _STRING: re.compile(f"[^\n\x07\x18\x1a\x9c{_INTRODUCERS}]*"),
}


def sanitize(text: str) -> str:
    """Return `text` without anything that a terminal obeys, newlines and tabs excepted."""
    return Sanitizer().feed(text)


def sanitize_line(text: str) -> str:
    """Return `text` as `sanitize` does, on one line: for a name, a table's cell, a log line."""
    return " ".join(sanitize(text).split())


class Sanitizer:
    """`sanitize` for a text that arrives in pieces, however it is cut: what is shown is the same."""

    def __init__(self) -> None:
        self._state = _TEXT

    def feed(self, piece: str) -> str:
        """Return what of `piece` is safe to show."""
        if self._state == _TEXT and not _UNSAFE.search(piece):
            return piece
        shown: list[str] = []
        at = 0
        while at < len(piece):
            if self._state == _TEXT:
                found = _INTRODUCER.search(piece, at)
                end = found.start() if found else len(piece)
                shown.append(_UNSAFE.sub(_instead, piece[at:end]))
            else:
                inside = _INSIDE[self._state].match(piece, at)
                end = inside.end() if inside else at
            taken = end < len(piece) and self._step(piece[end])
            at = end + taken
        return "".join(shown)

    def _step(self, char: str) -> bool:
        """Go on to the next state by `char`; return whether it belonged to a sequence, and so is not shown."""
        if char in _INTRODUCERS:
            self._state = _BEGUN_BY.get(char, _STRING)
        elif self._state == _ESCAPE and char in _AFTER_ESCAPE:
            self._state = _AFTER_ESCAPE[char]
        elif char in "\n\t" or char > "\x9f":
            self._state = _TEXT
            return False
        elif char in "\x18\x1a\x9c" or self._state == _STRING or " " <= char <= "~":
            self._state = _TEXT
        return True


def _instead(found: re.Match[str]) -> str:
    return "\N{REPLACEMENT CHARACTER}" if "\ud800" <= found[0] <= "\udfff" else ""
