"""Gemma's turns as the kit's chat template writes them, rendered as transformers renders templates."""

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tests.serving.vllm_side.test_python_calls import JSON, parts, python_calls
from tests.support.gemma import google_form
from tests.support.serving import ROOT

TEMPLATE = ROOT / "serving" / "vllm_side" / "templates" / "gemma3.jinja"


def make():
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(TEMPLATE.read_text())


COMPILED = make()


def render(messages, **kwargs):
    return COMPILED.render(messages=messages, bos_token="<bos>", add_generation_prompt=True, **kwargs)


def user(content):
    return {"role": "user", "content": content}


def model(content, *calls):
    message = {"role": "assistant", "content": content}
    return message | {"tool_calls": list(calls)} if calls else message


def system(content):
    return {"role": "system", "content": content}


def call(identity, name, **arguments):
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


def tool(name):
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}


TEXT = st.text(max_size=12) | st.sampled_from(["Hi ", "\n", " a\nb "])
PART = st.builds(lambda text: {"type": "text", "text": text}, TEXT) | st.just({"type": "image"})
CONTENT = TEXT | st.lists(PART, min_size=1, max_size=3)


@st.composite
def plain_conversations(draw):
    """What Google's own template takes: a system text or none, then user and model in turn."""
    talk = [(user, model)[number % 2](draw(CONTENT)) for number in range(draw(st.integers(1, 5)))]
    return draw(st.sampled_from([[], [system(draw(TEXT))]])) + talk


ANY_MESSAGE = st.one_of(
    CONTENT.map(user),
    CONTENT.map(model),
    CONTENT.map(system),
    TEXT.map(lambda text: {"role": "developer", "content": text}),
    st.just(model(None, call("1", "now"))),
    TEXT.map(lambda text: {"role": "tool", "content": text, "tool_call_id": "1"}),
)


@settings(max_examples=100, deadline=None)
@given(plain_conversations())
def test_a_plain_conversation_is_written_as_google_writes_it(messages):
    assert render(messages) == google_form(messages)


@settings(max_examples=100, deadline=None)
@given(st.lists(ANY_MESSAGE, max_size=6))
def test_every_conversation_is_turns_that_alternate_and_loses_no_text(messages):
    text = render(messages)
    assert text.startswith("<bos>")
    assert text.endswith("<start_of_turn>model\n")
    turns = text.removeprefix("<bos>").removesuffix("<start_of_turn>model\n").split("<start_of_turn>")
    assert turns.pop(0) == ""
    roles = [turn.partition("\n")[0] for turn in turns]
    assert all(turn.endswith("<end_of_turn>\n") for turn in turns)
    assert set(roles) <= {"user", "model"}
    assert all(one != other for one, other in pairwise(roles))
    for message in messages:
        content = message["content"] or ()
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            assert part.get("text", "<start_of_image>").strip() in text


def test_a_conversation_with_a_system_text_and_an_image():
    parts = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    assert render([system("Be brief."), user("Hi "), model("Hello."), user(parts)]) == (
        "<bos><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nHello.<end_of_turn>\n"
        "<start_of_turn>user\n<start_of_image>What is it?<end_of_turn>\n<start_of_turn>model\n"
    )


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([], ""),
        ([system("S")], "<start_of_turn>user\nS<end_of_turn>\n"),
        ([user("a"), user("b")], "<start_of_turn>user\na\n\nb<end_of_turn>\n"),
        ([user("a"), system("S"), user("b")], "<start_of_turn>user\nS\n\na\n\nb<end_of_turn>\n"),
        ([system("S"), system("T"), user("a")], "<start_of_turn>user\nS\n\nT\n\na<end_of_turn>\n"),
        ([model("m"), user("a")], "<start_of_turn>model\nm<end_of_turn>\n<start_of_turn>user\na<end_of_turn>\n"),
        ([system("S"), model("m")], "<start_of_turn>user\nS<end_of_turn>\n<start_of_turn>model\nm<end_of_turn>\n"),
    ],
)
def test_what_google_refuses_is_taken(messages, text):
    assert render(messages) == f"<bos>{text}<start_of_turn>model\n"


def test_results_stand_under_the_calls_that_they_answer():
    paris, rome = call("c1", "weather", city="Paris"), call("c2", "weather", city="Rome", days=2, hourly=True)
    text = render(
        [
            user("Weather?"),
            model("One moment.", paris, rome),
            {"role": "tool", "tool_call_id": "c2", "content": "rainy"},
            {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        ],
        tools=[tool("weather")],
    )
    one, other = 'weather(city="Paris")', 'weather(city="Rome", days=2, hourly=True)'
    assert f"<start_of_turn>model\nOne moment.\n[{one}, {other}]<end_of_turn>" in text
    assert f"user\nResult of {other}:\nrainy\n\nResult of {one}:\nsunny<end_of_turn>" in text
    assert json.dumps(tool("weather")["function"]) in text
    assert text.count("You have tools") == 1


def test_an_identity_that_comes_twice_means_the_last_call_before():
    result = {"role": "tool", "tool_call_id": "call_0", "content": "x"}
    text = render([model(None, call("call_0", "a")), result, model(None, call("call_0", "b")), result])
    assert text.index("Result of a():") < text.index("Result of b():")


def test_a_result_without_its_call_bears_what_name_it_has():
    results = [{"name": "weather"}, {"tool_call_id": "c9"}, {}]
    text = render([{"role": "tool", "content": "x"} | given for given in results])
    assert "Result of weather:\nx\n\nResult of c9:\nx\n\nResult of the tool:\nx" in text


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.dictionaries(st.from_regex(r"[A-Za-z_][\w-]{0,9}", fullmatch=True), JSON, max_size=3), min_size=1, max_size=3
    )
)
def test_the_parser_reads_what_the_template_writes(several):
    text = render([user("?"), model(None, *(call(str(at), "f-1", **given) for at, given in enumerate(several)))])
    written = text.partition("<start_of_turn>model\n")[2].partition("<end_of_turn>\n<start_of_turn>model")[0]
    assert parts(python_calls.read_answer(written, {"f-1": ()})) == ("", [("f-1", given) for given in several])
