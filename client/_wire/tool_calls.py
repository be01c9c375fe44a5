"""Tool calls from their pieces, told apart by what identifies them.

A call begins with its name. OpenAI numbers the calls (`index`) and gives each an id; other servers give all the same
index, or start at 1, or number nothing, or change the id with every piece, or send a call whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from client._wire.chunk import clean, dumps, loads

if TYPE_CHECKING:
    import msgspec

_OWN = ("index", "id", "type", "function", "name", "arguments", "parameters")


class ToolCalls:
    """Collects the calls; `calls` is in the shape that an assistant message takes."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self._by_id: dict[str, dict[str, Any]] = {}
        self._by_index: dict[int, dict[str, Any]] = {}

    def add(self, raw: msgspec.Raw) -> bool:
        """Take the (pieces of) calls in `raw`; return whether there were any."""
        data = bytes(raw)
        try:
            pieces = loads(data) if data else None
        except ValueError:
            return False
        if isinstance(pieces, dict):
            pieces = [pieces]
        if not isinstance(pieces, list):
            return False
        pieces = [piece for piece in pieces if isinstance(piece, dict)]
        for position, piece in enumerate(pieces):
            self._add(piece, position if len(pieces) > 1 else None)
        return bool(pieces)

    def add_function_call(self, raw: msgspec.Raw) -> bool:
        """Take a piece of a call in the form that came before tool calls; return whether it was one."""
        data = bytes(raw)
        try:
            piece = loads(data) if data else None
        except ValueError:
            return False
        if not isinstance(piece, dict):
            return False
        self._add({"index": 0, "function": piece}, None)
        return True

    def _add(self, piece: dict[str, Any], position: int | None) -> None:
        function = piece.get("function", piece)  # some put its fields beside the id
        function = function if isinstance(function, dict) else {}
        name, id_ = _word(function.get("name")), _word(piece.get("id"))
        index = piece.get("index") if type(piece.get("index")) is int else None
        given = function.get("arguments", function.get("parameters"))
        arguments = _arguments(given)
        call = self._find(id_, index, name, arguments, position)
        if call is None:
            call = {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
            self.calls.append(call)
        if id_:
            call["id"] = call["id"] or id_
            self._by_id[id_] = call
        if index is not None:
            self._by_index[index] = call
        known = call["function"]
        known["name"] = _joined_name(known["name"], name)
        so_far = known["arguments"]
        if isinstance(given, (dict, list)) or (so_far == "{}" and arguments.startswith("{")):
            known["arguments"] = arguments  # whole, or in the place of what stood for "to come"
        elif name and so_far and arguments.startswith(so_far):
            known["arguments"] = arguments  # all of the call so far, once more
        elif arguments != so_far or not _is_whole(arguments):  # else it was said twice
            known["arguments"] = so_far + arguments
        call.update({key: value for key, value in piece.items() if key not in _OWN})

    def _find(
        self, id_: str, index: int | None, name: str, arguments: str, position: int | None
    ) -> dict[str, Any] | None:
        """Return the call that a piece belongs to, None for a new one."""
        call = self._by_id.get(id_)
        if call is None:
            if not self.calls:
                return None
            if index is not None and index in self._by_index:
                call = self._by_index[index]
            elif index is not None and (name or id_):
                return None
            elif index is None and not (name or id_) and position is not None and position < len(self.calls):
                return self.calls[position]
            else:
                call = self.calls[-1]
            if name and id_ and (call["id"] or index is None):
                return None  # a new id together with a name
        if not name:
            return call
        so_far = call["function"]
        if so_far["name"] != name:
            return None if so_far["arguments"] or (index is None and so_far["name"]) else call
        again = arguments == so_far["arguments"] and position is None
        return None if arguments and not again and _is_whole(so_far["arguments"]) else call


def _joined_name(known: str, name: str) -> str:
    """Return the name after a piece: most servers send it whole, some again with each piece, some in fragments."""
    if name.startswith(known):
        return name or known
    return known if known.startswith(name) else known + name


def _is_whole(arguments: str) -> bool:
    if not arguments.rstrip().endswith("}"):
        return False
    try:
        return isinstance(loads(arguments), dict)
    except ValueError:
        return False


def _arguments(value: object) -> str:
    if value is None:
        return ""
    return clean(value if isinstance(value, str) else dumps(value))


def _word(value: object) -> str:
    return clean(value) if isinstance(value, str) else str(value) if type(value) is int else ""
