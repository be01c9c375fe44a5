"""Gemma's turns, written by vLLM's own template code: what Google's form is, whole, for whatever conversation."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from client._wire.turns import merge_turns
from serving.model import tryout
from serving.settings import ServeSettings
from tests.client.wire.test_turns import CALL, turn
from tests.support.gemma import google_form

ROOT = Path(__file__).parents[2]
ENGINE_PYTHON = ROOT / ".venv-engine" / "bin" / "python"

# Google's rules in a template of ours: one system text, of which the first part is read; user and assistant in turn.
STRICT = """\
{%- if messages[0].role == 'system' -%}
    {%- set said = messages[0].content -%}
    {%- set before = (said if said is string else said[0].text) ~ '\\n\\n' -%}
    {%- set talk = messages[1:] -%}
{%- else -%}
    {%- set before = '' -%}
    {%- set talk = messages -%}
{%- endif -%}
{{- bos_token -}}
{%- for message in talk -%}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) -%}
        {{- raise_exception('roles must alternate') -}}
    {%- endif -%}
    {{- '<start_of_turn>' ~ ('model' if message.role == 'assistant' else message.role) ~ '\\n' -}}
    {{- before if loop.first -}}
    {%- if message.content is string -%}
        {{- message.content | trim -}}
    {%- else -%}
        {%- for item in message.content -%}{{- item.text | trim -}}{%- endfor -%}
    {%- endif -%}
    {{- '<end_of_turn>\\n' -}}
{%- endfor -%}
{{- '<start_of_turn>model\\n' if add_generation_prompt -}}
"""

PROGRAM = """
import json, sys
from transformers import AutoTokenizer
from vllm.config import ModelConfig
from vllm.renderers.chat_utils import parse_chat_messages
from vllm.renderers.hf import resolve_chat_template_content_format, safe_apply_chat_template

model, templates, conversations = json.load(sys.stdin)
config = ModelConfig(model=model, dtype="float32")
tokenizer = AutoTokenizer.from_pretrained(model)
rendered = []
for messages in conversations:
    for template in templates:
        format = resolve_chat_template_content_format(template, None, "auto", tokenizer, model_config=config)
        turns, _, _ = parse_chat_messages(messages, config, content_format=format)
        try:
            rendered.append(safe_apply_chat_template(
                config, tokenizer, turns, chat_template=template, tokenize=False, add_generation_prompt=True
            ))
        except Exception as error:
            rendered.append(f"refused: {error}")
print(json.dumps(rendered))
"""

PARTS = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "plain": [turn("user", "a"), turn("assistant", "b"), turn("user", "c")],
    "system in front": [turn("system", "s"), turn("user", "a")],
    "system alone": [turn("system", "s")],
    "assistant first": [turn("assistant", "hello"), turn("user", "a")],
    "system, assistant first": [turn("system", "s"), turn("assistant", "hello"), turn("user", "a")],
    "two systems, one in parts": [turn("system", "s"), turn("system", PARTS), turn("user", "a")],
    "system in parts": [turn("system", PARTS), turn("user", "a")],
    "developer": [turn("developer", "d"), turn("user", "a")],
    "system in mid-conversation": [turn("user", "a"), turn("assistant", "b"), turn("system", "s"), turn("user", "c")],
    "system at the end": [turn("user", "a"), turn("assistant", "b"), turn("system", "s")],
    "two users": [turn("user", "a"), turn("user", PARTS), turn("assistant", "b"), turn("assistant", "c"), turn("user", "d")],
    "nothing said": [turn("user", "a"), turn("assistant", None), turn("user", "")],
}  # fmt: skip
TOOLS = [turn("system", "s"), turn("user", "a"), turn("assistant", None, tool_calls=[CALL]), turn("tool", "42", tool_call_id="1")]  # fmt: skip


@pytest.mark.engine
@pytest.mark.slow
def test_vllm_writes_them_as_google_does() -> None:
    model = tryout.TRYOUT_MODELS["tryout-gemma-3-270m"]
    folder = tryout.checkpoint(model, ServeSettings.load().cache_dir, ENGINE_PYTHON, print)
    ours = (ROOT / "serving/vllm_side/templates/gemma3.jinja").read_text()
    merged = [merge_turns(messages) for messages in [*CONVERSATIONS.values(), TOOLS]]
    as_they_are = CONVERSATIONS["assistant first"]
    given = json.dumps([str(folder), [STRICT, ours], [*merged, as_they_are]])
    done = subprocess.run([ENGINE_PYTHON, "-c", PROGRAM], input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rendered = json.loads(done.stdout.strip().splitlines()[-1])
    for number, name in enumerate(CONVERSATIONS):
        expected = google_form(merged[number])
        assert rendered[2 * number : 2 * number + 2] == [expected, expected], name
    *_, tools, refused, _ = rendered
    assert "42" in tools
    assert tools.count("<start_of_turn>") == 4
    assert refused == "refused: roles must alternate"
