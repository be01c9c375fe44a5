"""What is sent: the arguments of `chat.completions.create`."""

from __future__ import annotations

import functools
import inspect
from types import FunctionType
from typing import TYPE_CHECKING, Any

from client._wire.turns import is_gemma, merge_turns

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_NOT_IN_THE_BODY = ("model", "stream", "timeout", "extra_headers", "extra_query")


def arguments(
    messages: Iterable[Mapping[str, Any]], model: str, max_tokens: int, temperature: float, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments for one streamed completion.

    Options that the openai client does not know (vLLM's `top_k`, `min_p`, ...) go into `extra_body`; an option of None
    is left out.
    """
    found: dict[str, Any] = {
        "model": model,
        "messages": merge_turns(messages) if is_gemma(model) else list(messages),
        "temperature": temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if options.get("max_completion_tokens") is None:
        found["max_tokens"] = max_tokens
    extra = dict(options.get("extra_body") or {})
    known = _known_options()
    for name, value in options.items():
        if name in ("model", "extra_body", "stream") or value is None:
            continue
        if name in known:
            found[name] = value
        else:
            extra.setdefault(name, value)
    if extra:
        found["extra_body"] = extra
    return found


def lightened(found: dict[str, Any], create: object) -> dict[str, Any]:
    """Return the arguments in the form that costs the least, if `create` is the openai client's own.

    It walks through every argument once for each type that it may have, to find nothing to change in ours: a
    millisecond of the event loop's time for a few messages. What comes in `extra_body` it takes as it is.
    """
    own = getattr(create, "__func__", None)
    # Neither a test's mock nor an instrumentation's wrapper: those want to see the messages.
    if not isinstance(own, FunctionType) or own.__globals__["__name__"] != "openai._utils._utils":
        return found
    kept = {name: found[name] for name in _NOT_IN_THE_BODY if name in found}
    rest = {name: value for name, value in found.items() if name not in _NOT_IN_THE_BODY and name != "extra_body"}
    return {**kept, "messages": (), "extra_body": {**rest, **found.get("extra_body", {})}}


@functools.cache
def _known_options() -> frozenset[str]:
    from openai.resources.chat import AsyncCompletions

    return frozenset(inspect.signature(AsyncCompletions.create).parameters)
