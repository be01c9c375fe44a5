"""Answer JSON schemas that hold a limit which xgrammar cannot enforce, without that limit, and not with a 400.

A grammar that lets a model write white space between JSON's parts lets it write nothing else. vLLM forbids it with
`disable_any_whitespace`, for which the backend must be named, and a named backend refuses what it cannot enforce
(`uniqueItems`, `multipleOf`, `contains`, formats, a pattern beside a length: in pydantic a set, a Decimal, an e-mail
address). With the backend "auto" vLLM takes such a schema: its API accepts it for another backend, and the engine core
compiles it with whichever was asked for first, mostly xgrammar, which leaves out the limit. This does the same, always.

vLLM imports this file inside its own environment (`--middleware any_schema.AnySchema`, with this folder on PYTHONPATH).
The one private name that it touches is there in 0.32.0 and 0.33.0; without it, vLLM refuses as it does by itself.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.structured_output import backend_xgrammar


class AnySchema:
    """The application itself: to import this module is all that is wanted."""

    def __new__(cls, app: Any) -> Any:
        """Return the application, so that a request takes no step more."""
        return app


def nothing_unsupported(schema: dict[str, Any]) -> bool:
    """Answer for vLLM whether a schema holds what xgrammar cannot enforce; what it cannot compile, it says."""
    return False


if hasattr(backend_xgrammar, "has_xgrammar_unsupported_json_features"):
    backend_xgrammar.has_xgrammar_unsupported_json_features = nothing_unsupported
