"""What a server's models refuse, learnt from their errors: one request more, and only once for each model.

OpenAI's newer models want `max_completion_tokens` in place of `max_tokens` and take no temperature but their own;
older servers know no `stream_options`; Gemma at Google's own API, Gemma 2 and some of OpenAI's know no system message,
which is then the user's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from client._wire.turns import has_system, without_system
from client.errors import BadRequestError, ModelNotFoundError, ServerError

if TYPE_CHECKING:
    from client.errors import LLMError

# What may be changed, and into what: None for "left out".
_CHANGES: dict[str, tuple[str | None, ...]] = {
    "stream_options": (None,),
    "temperature": (None,),
    "max_tokens": ("max_completion_tokens", None),
    "max_completion_tokens": ("max_tokens", None),
}
_SYSTEM = "system message"
_OF_SYSTEM = re.compile(
    r"(?i)\b(?:developer instruction|system (?:role|message|prompt|instruction)|role\b.{0,30}\bsystem\b)"
)
_REFUSED = re.compile(
    r"(?i)\b(?:un-?supported"
    r"|not (?:be )?(?:support|enabled|permitted|allowed|recogni[sz]ed|available|accepted|both|known)"
    r"|cannot both|(?:does not|doesn't|do not|don't) (?:support|accept|allow|know)|isn't (?:supported|allowed)"
    r"|unknown|unrecogni[sz]ed|unexpected|extra (?:input|field|parameter)|deprecated|removed"
    r"|only\b.{0,40}\b(?:default|1)\b|use '?max_)"
)
# A limit that is beyond what the model can do is no refusal of the parameter.
_TOO_MUCH = re.compile(r"(?i)\b(?:too (?:large|long|many|high|big)|at most|at least|maximum|context length|greater)\b")


class Dialect:
    """What has been learnt of one endpoint: for each model, the parameters to rename or to leave out."""

    def __init__(self) -> None:
        self._changes: dict[str, dict[str, str | None]] = {}

    def apply(self, model: str, arguments: dict[str, Any]) -> None:
        """Change `arguments` into what `model` is known to take."""
        for name, other in self._changes.get(model, {}).items():
            _change(arguments, name, other)

    def learn(self, model: str, arguments: dict[str, Any], failure: LLMError) -> str:
        """Change `arguments` by what `failure` says of them and keep it in mind; return what, or "" for nothing.

        Each parameter is changed at most once for a model, so this comes to an end.
        """
        if not isinstance(failure, (BadRequestError, ServerError)) or isinstance(failure, ModelNotFoundError):
            return ""
        changes = self._changes.setdefault(model, {})
        said = str(failure)
        for name, others in _CHANGES.items():
            if name not in arguments or not _is_refused(name, said, failure.parameter, arguments):
                continue
            if name not in changes:
                tried = {*changes, *changes.values()}
                changes[name] = next(other for other in others if other is None or other not in tried)
            other = changes[name]
            _change(arguments, name, other)
            return f"{model!r} takes no {name}{f' but {other}' if other else ''}"
        if has_system(arguments["messages"]) and _OF_SYSTEM.search(said) and _REFUSED.search(said):
            changes[_SYSTEM] = None
            _change(arguments, _SYSTEM, None)
            return f"{model!r} takes no {_SYSTEM}"
        return ""


def _is_refused(name: str, said: str, parameter: str, arguments: dict[str, Any]) -> bool:
    if name == "stream_options":
        return name in said
    named = parameter == name if parameter in arguments else re.search(rf"\b{name}\b", said) is not None
    return named and _REFUSED.search(said) is not None and not (name.startswith("max_") and _TOO_MUCH.search(said))


def _change(arguments: dict[str, Any], name: str, other: str | None) -> None:
    if name == _SYSTEM:
        arguments["messages"] = without_system(arguments["messages"])
    elif name in arguments:
        value = arguments.pop(name)
        if other is not None:
            arguments.setdefault(other, value)
