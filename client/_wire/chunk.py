"""The pieces of an answer as the server sends them, reduced to the fields that are wanted."""

from __future__ import annotations

import json
from typing import Any

import msgspec

NONE = msgspec.Raw(b"")


class Delta(msgspec.Struct, gc=False):
    """What one chunk adds.

    vLLM calls reasoning `reasoning`, older servers `reasoning_content`, Ollama `thinking`, Copilot `reasoning_text`;
    OpenRouter and MiniMax send it, or send it once more, in `reasoning_details`.
    """

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    thinking: str | None = None
    reasoning_text: str | None = None
    reasoning_details: msgspec.Raw = NONE
    refusal: str | None = None
    tool_calls: msgspec.Raw = NONE
    function_call: msgspec.Raw = NONE


class Choice(msgspec.Struct, gc=False):
    """One choice; `message` takes the place of `delta` in a whole completion, `text` in the API before chats.

    `native_finish_reason` is the reason of the server behind OpenRouter.
    """

    index: int | None = 0
    delta: Delta | None = None
    message: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    native_finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None
    usage: msgspec.Raw = NONE
    error: msgspec.Raw = NONE


class Chunk(msgspec.Struct, gc=False):
    """One chunk; what is looked at once per answer, or never, stays undecoded."""

    choices: list[Choice] | msgspec.UnsetType | None = msgspec.UNSET
    usage: msgspec.Raw = NONE
    error: msgspec.Raw = NONE
    x_groq: msgspec.Raw = NONE
    object: str | None = None


class Usage(msgspec.Struct, frozen=True):
    """The tokens that the server counted; 0 where it did not say.

    `cached_tokens` is the part of the prompt that the server had seen before, `reasoning_tokens` the part of the
    completion that was thinking.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


decode_chunk = msgspec.json.Decoder(Chunk).decode
"""Decode one chunk; raises msgspec.DecodeError (or a subclass) where the JSON or a field's type is another."""


def loads(data: bytes | str) -> Any:
    """Decode any JSON, forgiving bytes that are not UTF-8; raises ValueError, for nesting without end too."""
    try:
        return json.loads(data.decode("utf-8", "replace") if isinstance(data, bytes) else data, parse_int=_integer)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _integer(digits: str) -> int | str:
    """Return the number; what no field holds stays text: Python refuses to turn thousands of digits into a number."""
    return int(digits) if len(digits) < 100 else digits[:20] + "..."


def dumps(value: object) -> str:
    """Return `value`, which came from `loads`, as JSON; "..." for nesting without end."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (RecursionError, ValueError):
        return "..."


def clean(text: str) -> str:
    """Return `text` as text that can be sent and printed: halves of characters joined, or replaced where alone."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def lenient_chunk(body: dict[str, Any]) -> Chunk:
    """Return the chunk in `body`, without those fields whose type is another."""
    raw = body.get("choices")
    choices = [_choice(choice) for choice in raw if isinstance(choice, dict)] if isinstance(raw, list) else None
    return Chunk(choices=choices, usage=_raw(body.get("usage")), x_groq=_raw(body.get("x_groq")))


def chunk_of_object(given: Any) -> Chunk:
    """Return the chunk in an object that did not come from our decoder, such as a test's mock: no demands on it."""
    from pydantic import BaseModel  # loaded on first use

    if issubclass(type(given), BaseModel):  # the SDK's own class
        return lenient_chunk(given.model_dump(warnings=False))
    choices = getattr(given, "choices", None)
    if not choices:
        return Chunk()
    delta = Delta(content=_text_of(getattr(choices[0], "delta", None)))
    finish = getattr(choices[0], "finish_reason", None)
    return Chunk(choices=[Choice(delta=delta, finish_reason=finish if isinstance(finish, str) else None)])


def chunk_of_completion(completion: Any) -> Chunk:
    """Return a whole completion that did not come from our decoder; one of no known shape is an empty one."""
    from pydantic import BaseModel  # loaded on first use

    if issubclass(type(completion), BaseModel):
        return lenient_chunk(completion.model_dump(warnings=False))
    return Chunk(choices=[Choice(message=Delta(content=_text_of(first_message(completion))))])


def first_message(completion: Any) -> Any:
    """Return the message of the first choice of `completion`, or None."""
    try:
        return completion.choices[0].message
    except (AttributeError, IndexError, TypeError, KeyError):
        return None


def _text_of(message: Any) -> str | None:
    content = getattr(message, "content", None)
    return content if isinstance(content, str) else None


def is_chunk(line: bytes) -> bool:
    """Return whether `line` is a piece of an answer, and not the whole of one."""
    try:
        choices = decode_chunk(line).choices
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False
    return isinstance(choices, list) and any(choice.delta is not None for choice in choices)


def reasoning_in(details: msgspec.Raw) -> str:
    """Return the reasoning that can be read in `reasoning_details`."""
    try:
        found = loads(bytes(details) or b"null")
    except ValueError:
        return ""
    return clean("".join(_text(part, "text") or _text(part, "summary") for part in _listed(found)))


def usage_of(raw: msgspec.Raw) -> Usage | None:
    """Return the usage in `raw`, or None where there is none."""
    data = bytes(raw)
    if not data or data == b"null":
        return None
    try:
        counted = loads(data)
    except ValueError:
        return None
    if not isinstance(counted, dict):
        return None
    of_prompt, of_completion = counted.get("prompt_tokens_details"), counted.get("completion_tokens_details")
    usage = Usage(
        prompt_tokens=_count(counted, "prompt_tokens") or _count(counted, "input_tokens"),
        completion_tokens=_count(counted, "completion_tokens") or _count(counted, "output_tokens"),
        total_tokens=_count(counted, "total_tokens"),
        cached_tokens=_count(of_prompt, "cached_tokens")
        or _count(counted, "cached_tokens")
        or _count(counted, "prompt_cache_hit_tokens"),
        reasoning_tokens=_count(of_completion, "reasoning_tokens"),
    )
    return usage if usage != Usage() or "completion_tokens" in counted else None


def _count(counted: object, name: str) -> int:
    number = counted.get(name) if isinstance(counted, dict) else None
    if isinstance(number, str) and number.isdecimal() and len(number) < 20:
        number = int(number)
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    return number if isinstance(number, int) and not isinstance(number, bool) and number > 0 else 0


def _choice(raw: dict[str, Any]) -> Choice:
    finish, index, logprobs = raw.get("finish_reason"), raw.get("index"), raw.get("logprobs")
    if isinstance(finish, dict):
        finish = finish.get("type")  # SGLang's own shape
    return Choice(
        index=index if isinstance(index, int) else 0,
        delta=_delta(raw.get("delta")),
        message=_delta(raw.get("message")),
        text=_string(raw.get("text")),
        finish_reason=_string(finish),
        native_finish_reason=_string(raw.get("native_finish_reason")),
        logprobs=logprobs if isinstance(logprobs, dict) else None,
        usage=_raw(raw.get("usage")),
        error=_raw(raw.get("error")),
    )


def _delta(raw: object) -> Delta | None:
    if not isinstance(raw, dict):
        return None
    content, thought = raw.get("content"), ""
    if isinstance(content, (list, dict)):  # content parts, as Mistral's servers send them
        thought = "".join(_text(part, "thinking") for part in _listed(content))
        content = "".join(_text(part, "text") for part in _listed(content))
    elif type(content) in (int, float):
        content = dumps(content)
    names = ("reasoning", "reasoning_content", "thinking", "reasoning_text")
    reasoning = next((raw[name] for name in names if raw.get(name)), thought)
    if isinstance(reasoning, dict):
        reasoning = next((reasoning[name] for name in ("content", "text") if reasoning.get(name)), None)
    return Delta(
        content=content if isinstance(content, str) else None,
        reasoning=_string(reasoning),
        reasoning_details=_raw(raw.get("reasoning_details")),
        refusal=_string(raw.get("refusal")),
        tool_calls=_raw(raw.get("tool_calls")),
        function_call=_raw(raw.get("function_call")),
    )


def _string(value: object) -> str | None:
    return clean(value) if isinstance(value, str) else None


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _text(part: object, name: str) -> str:
    """Return the text of kind `name` in a content part; of thoughts, which are parts again, all."""
    if isinstance(part, str):
        return part if name == "text" else ""
    found = part.get(name) if isinstance(part, dict) else None
    if isinstance(found, list):
        return "".join(_text(inner, "text") for inner in found)
    return found if isinstance(found, str) else ""


def _raw(value: object) -> msgspec.Raw:
    if not value:
        return NONE
    try:
        return msgspec.Raw(json.dumps(value).encode())
    except (RecursionError, ValueError):
        return NONE
