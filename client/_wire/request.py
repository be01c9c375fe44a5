"""What is sent: the arguments of `chat.completions.create` and `embeddings.create`."""

from __future__ import annotations

import functools
import inspect
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

from client._wire.chunk import clean
from client._wire.turns import alternates, merge_turns

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from openai import NotGiven, Omit

    Omitted = Omit | NotGiven

_WRAPPERS = 10
_NOT_IN_THE_BODY = ("model", "stream", "timeout", "extra_headers", "extra_query")


def arguments(
    messages: Iterable[Mapping[str, Any]],
    model: str,
    max_tokens: int | Omitted,
    temperature: float | Omitted,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the arguments for one streamed completion.

    Options that the openai client does not know (vLLM's `top_k`, `min_p`, ...) go into `extra_body`; an option of None
    is left out, and so is whatever is openai's `omit` or `NOT_GIVEN`.
    Raises TypeError, ValueError and the like for what cannot be meant.
    """
    if not isinstance(model, str):
        raise TypeError("model must be a name")
    found: dict[str, Any] = {
        "model": model,
        "messages": merge_turns(messages) if alternates(model) else list(messages),
        "temperature": temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if options.get("max_completion_tokens") is None:
        found["max_tokens"] = max_tokens
    return _with_options(found, options, _known_options("chat.completions"))


def embedding_arguments(texts: str | Iterable[Any], model: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments for one request for embeddings; `options` as in `arguments`, and so is what is raised."""
    if not isinstance(model, str):
        raise TypeError("model must be a name")
    if isinstance(texts, (bytes, dict)):
        raise TypeError("input must be a text, a list of texts, or tokens")
    if not isinstance(texts, str):
        texts = [one if isinstance(one, (str, int)) else list(one) for one in texts]
    texts = mended(texts)
    # "float" is the API's default, which the openai client would change.
    found: dict[str, Any] = {"model": model, "input": texts, "encoding_format": "float"}
    return _with_options(found, options, _known_options("embeddings"))


def is_one_text(texts: str | list[Any]) -> bool:
    """Return whether these are one text, as it is or in tokens."""
    return isinstance(texts, str) or (bool(texts) and all(type(one) is int for one in texts))


def _with_options(found: dict[str, Any], options: Mapping[str, Any], known: frozenset[str]) -> dict[str, Any]:
    extra = dict(options.get("extra_body") or {})
    for name, value in options.items():
        if name in ("model", "input", "extra_body", "stream") or value is None:
            continue
        if name in known:
            found[name] = value
        elif not is_omitted(value):
            extra.setdefault(name, value)
    found = {name: value for name, value in found.items() if not is_omitted(value)}
    if extra:
        found["extra_body"] = extra
    return found


def mended(value: Any) -> Any:
    """Return `value` with halves of characters joined or replaced: JSON cannot be sent with one alone in it."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {mended(name): mended(item) for name, item in value.items()}
    return [mended(item) for item in value] if isinstance(value, (list, tuple)) else value


def is_omitted(value: object) -> TypeGuard[Omitted]:
    """Return whether `value` is the openai client's own way to say that a field is to be left out."""
    return type(value).__name__ in ("Omit", "NotGiven") and type(value).__module__.partition(".")[0] == "openai"


def is_the_sdks(create: object) -> bool:
    """Return whether `create` is the openai client's own function, or an instrumentation's wrapper around it."""
    for _ in range(_WRAPPERS):
        if _is_own(create):
            return True
        if type(create).__module__ == "unittest.mock" or not hasattr(create, "__wrapped__"):
            return False
        create = create.__wrapped__
    return False


def is_untouched(client: Any) -> bool:
    """Return whether nothing but the openai client sees a request of `client`: no instrumentation, no test's mock.

    Some wrap `create`, some `post` or `request`, on the class or on this one client. A wrapper of wrapt passes for a
    method but by its type.
    """
    functions = (client.chat.completions.create, getattr(client, "post", None), getattr(client, "request", None))
    return all(type(function) is MethodType and _is_own(function) for function in functions)


def without_the_sdks_walk(found: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments in the form that costs the openai client the least; nobody else must want to see them.

    It walks through every argument once for each type that it may have, to find nothing to change in ours: a
    millisecond of the event loop's time for a few messages. What comes in `extra_body` it takes as it is.
    """
    kept = {name: found[name] for name in _NOT_IN_THE_BODY if name in found}
    rest = {name: value for name, value in found.items() if name not in _NOT_IN_THE_BODY and name != "extra_body"}
    return {**kept, "messages": (), "extra_body": {**rest, **found.get("extra_body", {})}}


def _is_own(create: object) -> bool:
    own = getattr(create, "__func__", create)
    return isinstance(own, FunctionType) and own.__globals__["__name__"].startswith("openai.")


@functools.cache
def _known_options(of: Literal["chat.completions", "embeddings"]) -> frozenset[str]:
    from openai.resources import AsyncEmbeddings
    from openai.resources.chat import AsyncCompletions

    create = AsyncEmbeddings.create if of == "embeddings" else AsyncCompletions.create
    return frozenset(inspect.signature(create).parameters)
