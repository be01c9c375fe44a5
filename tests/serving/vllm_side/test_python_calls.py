"""What is a call and what is text, and that neither depends on how the answer arrives."""

import importlib
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serving.vllm_side.inside.answers import CALLS, TEXTS, TOOLS

MODULE = Path(__file__).parents[3] / "serving" / "vllm_side" / "tool_parser" / "python_calls.py"
FUNCTIONS = {tool["function"]["name"]: tuple(tool["function"]["parameters"]["properties"]) for tool in TOOLS}


sys.path.append(str(MODULE.parent))  # as vLLM's plugin does
python_calls = importlib.import_module("python_calls")


def parts(found):
    return found.text, [(call.name, json.loads(call.arguments)) for call in found.calls]


def read(answer, functions=FUNCTIONS):
    return parts(python_calls.read_answer(answer, functions))


def read_in_pieces(pieces, functions=FUNCTIONS):
    reader = python_calls.CallReader(functions)
    found = [reader.feed(piece) for piece in pieces] + [reader.end()]
    return "".join(one.text for one in found), [call for one in found for call in parts(one)[1]]


def cut(text, places):
    borders = [0, *sorted({place % (len(text) + 1) for place in places}), len(text)]
    return [text[start:end] for start, end in pairwise(borders)]


# Answers made of what calls are made of, so that nearly all are nearly calls.
FRAGMENTS = (
    "get_weather", "get-weather", "now", "get_time", "search", "(", ")", "()", "[", "]", "{", "}", ",", ", ", ";", "=",
    ":", '"', "'", '"""', "\\", "\\u00", "`", "```", "```tool_code\n", "```python\n", "\n", "\n\n", " ", "\r\n", "#",
    "city=", 'city="Paris"', "days=3", "True", "null", "-1.5e3", "Paris", "é", "😀", "[now()]", "now()", "One moment. ",
)  # fmt: skip
ANSWERS = st.one_of(
    st.lists(st.sampled_from(FRAGMENTS), max_size=25).map("".join),
    st.lists(st.sampled_from([*TEXTS, *(answer for answer, _, _ in CALLS), "\n", " "]), max_size=5).map("".join),
    st.text(max_size=40),
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("answer", TEXTS)
def test_what_is_no_call_is_text(answer):
    assert read(answer) == (answer, [])


@pytest.mark.parametrize(("answer", "text", "calls"), CALLS)
def test_what_is_a_call_is_one(answer, text, calls):
    assert read(answer) == (text or "", calls)


@pytest.mark.parametrize("answer", [*TEXTS, *(answer for answer, _, _ in CALLS)])
def test_one_character_at_a_time_gives_the_same(answer):
    assert read_in_pieces(answer) == read(answer)


@settings(max_examples=100, deadline=None)
@given(ANSWERS, st.lists(st.integers(0, 10**6), max_size=20))
def test_every_cut_gives_the_same(answer, places):
    assert read_in_pieces(cut(answer, places)) == read(answer)


@settings(max_examples=100, deadline=None)
@given(ANSWERS)
def test_an_answer_without_calls_is_text_to_the_character(answer):
    text, calls = read(answer)
    if not calls:
        assert text == answer
    assert {name for name, _ in calls} <= set(FUNCTIONS)
    assert read(answer, {}) == (answer, [])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.dictionaries(st.from_regex(r"[A-Za-z_][\w.-]{0,9}", fullmatch=True), JSON, max_size=3),
        min_size=1,
        max_size=3,
    )
)
def test_arguments_are_read_as_python_and_as_json_write_them(several):
    expected = ("", [("search", arguments) for arguments in several])
    for written in (repr, json.dumps, lambda value: json.dumps(value, ensure_ascii=False)):
        calls = [
            "search(" + ", ".join(f"{name}={written(value)}" for name, value in arguments.items()) + ")"
            for arguments in several
        ]
        assert read("[" + ", ".join(calls) + "]") == expected
        assert read("```tool_code\n" + "\n".join(calls) + "\n```") == expected


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=12), max_size=6))
def test_text_waits_only_while_it_may_become_a_call(lines):
    """A line that does not begin like a call goes out character by character, as soon as one is not white space."""
    answer = "\n".join(lines)
    reader = python_calls.CallReader(FUNCTIONS)
    given_out = ""
    for at, character in enumerate(answer, 1):
        given_out += reader.feed(character).text
        line = answer[:at].rpartition("\n")[2].lstrip(" \t\r")
        if line and not line.startswith(("[", "`")) and not any(name.startswith(line[:1]) for name in FUNCTIONS):
            assert given_out == answer[:at] or answer[:at].isspace()


def test_a_name_of_a_function_at_the_start_is_held_back_no_longer_than_it_may_be_a_call():
    reader = python_calls.CallReader(FUNCTIONS)
    assert [reader.feed(piece).text for piece in ("se", "arch ", "engines", " are")] == [
        "",
        "",
        "search engines",
        " are",
    ]


def test_a_call_is_given_out_at_the_end_of_its_line():
    reader = python_calls.CallReader(FUNCTIONS)
    assert parts(reader.feed("[now()]")) == ("", [])
    assert parts(reader.feed("\n")) == ("", [("now", {})])
    assert parts(reader.feed("Done")) == ("Done", [])


@pytest.mark.parametrize(
    "piece",
    [
        '[search(query="',
        "search(query='\n",
        "[search(query=[1,\n",
        "```tool_code\n",
        "\n",
        " ",
        "[",
        "[now(),\n",
        "\\",
        "'''\n",
        "`",
    ],
)
def test_long_answers_take_time_in_proportion(piece):
    """Each character is looked at once: quadratic work on so many would take minutes."""
    answer = piece * (40_000 // len(piece))
    assert read_in_pieces(answer) == (answer, []) == read(answer)


def test_deep_nesting_is_text_and_no_error():
    for opening, closing in ("[]", "()", ('{"a": ', "}")):
        answer = "[search(query=" + opening * 5000 + "1" + closing * 5000 + ")]"
        assert read(answer) == (answer, [])


def test_it_needs_nothing_but_the_standard_library():
    subprocess.run([sys.executable, "-E", "-S", str(MODULE)], check=True)
