"""The literals that stand in a call: Python's and JSON's, and strings with line breaks in them.

Each function is a piece of the grammar: a generator that is sent character after character (END at the end of the
answer), returns what it has read and the first character behind it, and raises NoCallError as soon as nothing can come
of it.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator

    Reading = Generator[None, str, tuple[Any, str]]

END = ""
BLANK = frozenset(" \t\r\n")
QUOTES = frozenset("\"'")
BREAKS = BLANK | QUOTES | frozenset("()[]{},:=")
WORDS = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}
INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)")
DECIMAL = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?")
ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "\n": ""}
ESCAPED |= {letter: letter for letter in "\\'\"/"}
LONGEST_WORD = 200
DEEPEST = 32


class NoCallError(Exception):
    """What was read so far is the beginning of no call."""


def skip(character: str, what: frozenset[str]) -> Generator[None, str, str]:
    """Skip the characters of `what`; return the first other one."""
    while character in what:
        character = yield
    return character


def next_item(character: str, closing: str) -> Generator[None, str, str]:
    """Read a comma, if there is one, and return the first character of what follows, which may be `closing`."""
    character = yield from skip(character, BLANK)
    if character == ",":
        return (yield from skip((yield), BLANK))
    if character != closing:
        raise NoCallError
    return character


def read_word(character: str) -> Reading:
    """Read what stands without quotes."""
    word = ""
    while character not in BREAKS:
        word += character
        if character == END or len(word) > LONGEST_WORD:
            raise NoCallError
        character = yield
    return word, character


def literal(word: str) -> Any:
    """Return the value of a word: a number, a truth value, nothing. Raises NoCallError for any other."""
    if word in WORDS:
        return WORDS[word]
    if INTEGER.fullmatch(word):
        return int(word.replace("_", ""))
    if DECIMAL.fullmatch(word) and math.isfinite(number := float(word)):
        return number
    raise NoCallError


def read_value(character: str, depth: int) -> Reading:
    """Read a value, nested at most `depth` deep."""
    if character in QUOTES:
        return (yield from _string(character))
    if not depth:
        raise NoCallError
    if character == "[":
        (items, _), character = yield from _items("]", depth)
        return items, character
    if character == "(":
        (items, is_tuple), character = yield from _items(")", depth)
        return items if is_tuple else items[0], character
    if character == "{":
        return (yield from _dictionary(depth))
    word, character = yield from read_word(character)
    return literal(word), character


def _items(closing: str, depth: int) -> Reading:
    """Read the items up to `closing`; return them, and whether a comma (or emptiness) makes of them more than one."""
    items: list[Any] = []
    comma = False
    character = yield from skip((yield), BLANK)
    while character != closing:
        item, character = yield from read_value(character, depth - 1)
        items.append(item)
        character = yield from skip(character, BLANK)
        comma = comma or character == ","
        character = yield from next_item(character, closing)
    return (items, comma or not items), (yield)


def _dictionary(depth: int) -> Reading:
    items: dict[str, Any] = {}
    character = yield from skip((yield), BLANK)
    while character != "}":
        if character not in QUOTES:
            raise NoCallError
        key, character = yield from _string(character)
        if (yield from skip(character, BLANK)) != ":":
            raise NoCallError
        value, character = yield from read_value((yield from skip((yield), BLANK)), depth - 1)
        items[key] = value
        character = yield from next_item(character, "}")
    return items, (yield)


def _string(quote: str) -> Reading:
    """Read a string of Python or JSON; a line break may stand in each kind."""
    character = yield
    closing = quote
    if character == quote:
        character = yield
        if character != quote:
            return "", character
        closing = quote * 3
        character = yield
    read: list[str] = []
    quotes = 0
    while True:
        if character == END:
            raise NoCallError
        read.append(character)
        quotes = quotes + 1 if character == quote else 0
        if quotes == len(closing):
            return _unescaped("".join(read[: -len(closing)])), (yield)
        if character == "\\":
            read.append((yield))
        character = yield


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    text = ESCAPE.sub(_character, text)
    if any("\ud800" <= character <= "\udfff" for character in text):
        # JSON writes characters beyond the 16 bits as two halves; half a character is none.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _character(escape: re.Match[str]) -> str:
    code = escape[1] or escape[2] or escape[3]
    if code is None:
        return ESCAPED.get(escape[4], escape[0])
    return chr(number) if (number := int(code, 16)) <= 0x10FFFF else escape[0]
