"""Gemma's turns as the kit's chat template writes them, rendered as transformers renders templates."""

import json
from pathlib import Path

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

TEMPLATE = Path(__file__).parents[3] / "serving" / "vllm_side" / "templates" / "gemma3.jinja"


def render(messages, **kwargs):
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    template = environment.from_string(TEMPLATE.read_text())
    return template.render(messages=messages, bos_token="<bos>", add_generation_prompt=True, **kwargs)


def test_a_conversation_with_a_system_text_and_an_image():
    parts = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    assert render(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi "},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": parts},
        ]
    ) == (
        "<bos><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nHello.<end_of_turn>\n"
        "<start_of_turn>user\n<start_of_image>What is it?<end_of_turn>\n<start_of_turn>model\n"
    )


def test_turns_of_one_role_in_a_row_become_one():
    text = render([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}])
    assert text == "<bos><start_of_turn>user\na\n\nb<end_of_turn>\n<start_of_turn>model\n"


def test_calls_are_python_and_results_come_back_as_the_users_turn():
    call = {"function": {"name": "weather", "arguments": {"city": 'Par"is', "days": 2, "hourly": True}}}
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    text = render(
        [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": None, "tool_calls": [call, call]},
            {"role": "tool", "content": "sunny", "name": "weather"},
            {"role": "tool", "content": "rainy", "tool_call_id": "c2"},
        ],
        tools=[tool],
    )
    one = 'weather(city="Par\\"is", days=2, hourly=True)'
    assert f"<start_of_turn>model\n[{one}, {one}]<end_of_turn>" in text
    assert "user\nResult of weather:\nsunny\n\nResult of c2:\nrainy<end_of_turn>" in text
    assert json.dumps(tool["function"]) in text
    assert text.count("You have tools") == 1


@pytest.mark.parametrize("messages", [[], [{"role": "system", "content": "only"}]])
def test_a_conversation_without_a_user_renders(messages):
    assert render(messages).startswith("<bos>")
