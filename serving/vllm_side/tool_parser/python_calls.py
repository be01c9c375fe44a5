"""Tool calls that a model writes as Python, told from text while the text arrives.

What is a call:

- A list of calls, `[name(argument="value"), other()]`, on lines of its own, wherever it stands in the answer.
- A fenced `tool_code` block that holds nothing but calls or such lists, on lines of its own, wherever it stands.
- At the start of the answer, where nothing but calls came before: bare calls, `name(argument="value")`, on a line of
  their own, and such a block with any other word behind the fence.

Each name must be a known function's, each argument a literal (Python's or JSON's; strings may span lines), and what was
begun must be finished. All else is text, to the character: a call in the middle of a sentence, in a block of code or
behind prose, a link, a list of numbers, a call of an unknown function, a call that breaks off.

Each character is looked at once, so the time grows with the length of the text alone, and text waits only while it may
still become a call: from the start of a line that begins like one. Nothing here needs vLLM.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from python_literals import (
    BLANK,
    BREAKS,
    DEEPEST,
    END,
    LONGEST_WORD,
    NoCallError,
    literal,
    next_item,
    read_value,
    read_word,
    skip,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from python_literals import Reading

SPACE = frozenset(" \t\r")
LINE_END = frozenset(("\n", END))
SEPARATORS = frozenset(",;")
LINES = re.compile(r"[^\n]*\n|[^\n]+")
FENCE = "```"
TOOL_FENCE = "tool_code"


@dataclass(frozen=True)
class Call:
    """A call; `arguments` is a JSON object."""

    name: str
    arguments: str


@dataclass
class Found:
    """What a piece of an answer has brought: text that is certain to be text, and calls that are whole."""

    text: str = ""
    calls: list[Call] = field(default_factory=list)


def read_answer(answer: str, functions: Mapping[str, Sequence[str]]) -> Found:
    """Return the text and the calls of a whole answer; see CallReader."""
    reader = CallReader(functions)
    found, rest = reader.feed(answer), reader.end()
    return Found(found.text + rest.text, found.calls + rest.calls)


class CallReader:
    """Reads one answer, in pieces cut anywhere; what it has found at the end does not depend on the cuts.

    `functions` maps the name of each known function to its parameters' names in order (for arguments without names).
    White space around calls is not text, unless the answer holds nothing else.
    """

    def __init__(self, functions: Mapping[str, Sequence[str]]) -> None:
        self._functions = functions
        self._candidate: Generator[None, str, list[Call]] | None = None
        self._held: list[str] = []  # the candidate's characters
        self._at_line_start = True
        self._line: list[str] = []  # the current line of text
        self._in_code = False  # inside a fenced block that is text
        self._blank: list[str] = []  # white space that becomes text if text follows
        self._flowing = not functions  # text has come since the last call, so that white space is text, too
        self._has_text = False
        self._text: list[str] = []  # what `feed` or `end` will return
        self._calls: list[Call] = []
        self._has_calls = False

    def feed(self, piece: str) -> Found:
        """Take the next piece of the answer; return what has become certain with it."""
        at = 0
        while at < len(piece):
            if self._candidate is None and (self._in_code or not self._functions or not self._at_line_start):
                end = piece.find("\n", at) + 1 or len(piece)
                self._take_text(piece[at:end])
                at = end
            else:
                self._take_character(piece[at])
                at += 1
        return self._give()

    def end(self) -> Found:
        """Take the end of the answer; return what has become certain with it."""
        if self._candidate is not None:
            self._take_character(END)
        if self._candidate is not None:
            self._drop_candidate()
        if not self._has_calls:
            self._text += self._blank
        self._blank = []
        return self._give()

    def _give(self) -> Found:
        found = Found("".join(self._text), self._calls)
        self._text, self._calls = [], []
        return found

    def _take_character(self, character: str) -> None:
        if self._candidate is None:
            self._candidate = _candidate(self._functions, at_start=not self._has_text)
            next(self._candidate)
        self._held.append(character)
        try:
            self._candidate.send(character)
        except StopIteration as whole:
            self._calls += whole.value
            self._has_calls = True
            self._flowing = False
            self._candidate = None
            self._held.clear()
            self._blank.clear()
        except NoCallError:
            self._drop_candidate()

    def _drop_candidate(self) -> None:
        text = "".join(self._held)
        self._candidate = None
        self._held.clear()
        for line in LINES.findall(text):
            self._take_text(line)

    def _take_text(self, text: str) -> None:
        """Take text that ends at the end of a line, or before it."""
        self._line.append(text)
        self._at_line_start = text.endswith("\n")
        if self._at_line_start:
            line = "".join(self._line).lstrip()
            self._line.clear()
            if line.startswith(FENCE) and line.count(FENCE) == 1:
                self._in_code = not self._in_code
        if not self._flowing:
            if text.isspace():
                self._blank.append(text)
                return
            self._text += self._blank
            self._blank.clear()
            self._flowing = self._has_text = True
        self._text.append(text)


def _candidate(functions: Mapping[str, Sequence[str]], *, at_start: bool) -> Generator[None, str, list[Call]]:
    """Read the lines that a call would stand on, the end of the last one included."""
    character = yield from skip((yield), SPACE)
    if character == "[":
        calls, character = yield from _list(functions)
    elif character == "`":
        calls, character = yield from _fenced(functions, any_word=at_start)
    elif at_start:
        calls, character = yield from _bare(character, functions)
    else:
        raise NoCallError
    if (yield from skip(character, SPACE)) not in LINE_END:
        raise NoCallError
    return calls


def _bare(character: str, functions: Mapping[str, Sequence[str]]) -> Reading:
    calls = []
    while True:
        call, character = yield from _call(character, functions)
        calls.append(call)
        character = yield from skip(character, SPACE)
        if character not in SEPARATORS:
            return calls, character
        character = yield from skip((yield), SPACE)
        if character in LINE_END:
            return calls, character


def _list(functions: Mapping[str, Sequence[str]]) -> Reading:
    calls = []
    character = yield from skip((yield), BLANK)
    while True:
        call, character = yield from _call(character, functions)
        calls.append(call)
        character = yield from next_item(character, "]")
        if character == "]":
            return calls, (yield)


def _fenced(functions: Mapping[str, Sequence[str]], *, any_word: bool) -> Reading:
    for expected in FENCE[1:]:
        if (yield) != expected:
            raise NoCallError
    word, character = "", (yield)
    while character not in BLANK:
        word += character
        if not (word.isidentifier() if any_word else TOOL_FENCE.startswith(word)) or len(word) > LONGEST_WORD:
            raise NoCallError
        character = yield
    if not any_word and word != TOOL_FENCE:
        raise NoCallError
    calls: list[Call] = []
    while (character := (yield from skip(character, BLANK))) != "`":
        if character == "#":  # a comment, up to the end of its line
            while character not in LINE_END:
                character = yield
            continue
        if character == "[":
            more, character = yield from _list(functions)
            calls += more
        else:
            call, character = yield from _call(character, functions)
            calls.append(call)
        character = yield from skip(character, SPACE)
        if character in SEPARATORS:
            character = yield
        elif character not in ("\n", "`"):
            raise NoCallError
    for expected in FENCE[1:]:
        if (yield) != expected:
            raise NoCallError
    if not calls:
        raise NoCallError
    return calls, (yield)


def _call(character: str, functions: Mapping[str, Sequence[str]]) -> Reading:
    name = ""
    while character and any(known.startswith(name + character) for known in functions):
        name += character
        character = yield
    if name not in functions or (yield from skip(character, SPACE)) != "(":
        raise NoCallError
    unnamed = iter(functions[name])
    arguments: dict[str, Any] = {}
    character = yield from skip((yield), BLANK)
    while character != ")":
        (parameter, value), character = yield from _argument(character)
        if parameter is None:
            parameter = next(unnamed, None)
        if parameter is None or parameter in arguments:
            raise NoCallError
        arguments[parameter] = value
        character = yield from next_item(character, ")")
    return Call(name, json.dumps(arguments, ensure_ascii=False)), (yield)


def _argument(character: str) -> Reading:
    if character in BREAKS:
        value, character = yield from read_value(character, DEEPEST)
        return (None, value), character
    word, character = yield from read_word(character)
    character = yield from skip(character, BLANK)
    if character != "=":
        return (None, literal(word)), character
    value, character = yield from read_value((yield from skip((yield), BLANK)), DEEPEST)
    return (word, value), character
