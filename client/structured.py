"""Answers in the shape of a pydantic model, by way of the JSON schema in `response_format`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

import openai
from pydantic import BaseModel, ValidationError

from client.errors import UnexpectedResponseError

if TYPE_CHECKING:
    from client.stream import TextStream

ModelT = TypeVar("ModelT", bound=BaseModel)

# What a model writes around its JSON where the server takes a response_format and does not see to it.
_FENCE = re.compile(r"(?is)\s*```(?:json)?\s*(.*?)\s*```\s*")


def response_format(model: type[BaseModel]) -> dict[str, Any]:
    """Return the `response_format` that asks for `model`, in the strict form that OpenAI wants and vLLM accepts."""
    schema = openai.pydantic_function_tool(model)["function"]["parameters"]
    return {"type": "json_schema", "json_schema": {"name": model.__name__, "schema": schema, "strict": True}}


def validated(stream: TextStream, model: type[ModelT]) -> ModelT:
    """Return the answer as an instance of `model`. Raises UnexpectedResponseError with the text in `partial`."""
    try:
        fenced = _FENCE.fullmatch(stream.text)
        return model.model_validate_json(fenced[1] if fenced else stream.text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        cut = " It was cut at max_tokens." if stream.finish_reason == "length" else ""
        raise UnexpectedResponseError(
            f"The answer is no {model.__name__}: {where + ': ' if where else ''}{first['msg']}.{cut}",
            partial=stream.text,
            request_id=stream.request_id,
        ) from None  # the cause would print the answer
