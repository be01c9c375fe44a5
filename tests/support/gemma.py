"""Gemma 3's turns as Google writes them, from what the model's card says; the measure for the kit's own template."""

from __future__ import annotations

from typing import Any


def google_form(messages: list[dict[str, Any]], *, bos: str = "<bos>") -> str:
    """Return the prompt for a system text, if there is one, then user and assistant in turn.

    Gemma has no turn for a system text: it stands before what the first user says. What is said bears no white space
    around it; parts follow each other without any between them.
    """
    before = ""
    if messages and messages[0]["role"] == "system":
        before = messages[0]["content"] + "\n\n"
        messages = messages[1:]
    prompt = bos
    for number, message in enumerate(messages):
        expected = ("user", "assistant")[number % 2]
        assert message["role"] == expected, "Google's template refuses it"
        said = message["content"]
        parts = [{"type": "text", "text": said}] if isinstance(said, str) else said
        said = "".join("<start_of_image>" if part["type"] == "image" else part["text"].strip() for part in parts)
        prompt += f"<start_of_turn>{'user' if expected == 'user' else 'model'}\n{before}{said}<end_of_turn>\n"
        before = ""
    return prompt + "<start_of_turn>model\n"
