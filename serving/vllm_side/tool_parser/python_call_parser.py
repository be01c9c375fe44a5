"""The kit's tool parser as vLLM 0.32 wants it: `--tool-parser-plugin THIS_FILE --tool-call-parser python_calls`.

What is a call, and what is text, `python_calls` decides; vLLM imports this file inside its own environment.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm.entrypoints.generate.base.protocol import (
    DeltaFunctionCall,
    DeltaMessage,
    DeltaToolCall,
    ExtractedToolCallInformation,
    FunctionCall,
    ToolCall,
)
from vllm.tool_parsers.abstract_tool_parser import ToolParser, ToolParserManager

sys.path.append(str(Path(__file__).parent))  # vLLM loads a plugin by its path and knows nothing of its neighbours

from python_calls import Call, CallReader, Found, read_answer

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = "python_calls"


class PythonCallParser(ToolParser):
    """Reads one answer: whole, or in pieces as they are generated."""

    # vLLM then asks for what is held back when the answer ends (`finish_streaming`), and keeps no copy of the text.
    engine_based_streaming = True

    def __init__(self, tokenizer: Any, tools: Sequence[Any] | None = None) -> None:
        super().__init__(tokenizer, tools)
        self._reader: CallReader | None = None
        self._count = 0

    def extract_tool_calls(self, model_output: str, request: Any) -> ExtractedToolCallInformation:
        """Return the text and the calls of a whole answer."""
        found = read_answer(model_output, self._functions(request))
        calls = [_tool_call(call) for call in found.calls]
        return ExtractedToolCallInformation(tools_called=bool(calls), tool_calls=calls, content=found.text or None)

    def extract_tool_calls_streaming(
        self,
        previous_text: str,
        current_text: str,
        delta_text: str,
        previous_token_ids: Sequence[int],
        current_token_ids: Sequence[int],
        delta_token_ids: Sequence[int],
        request: Any,
    ) -> DeltaMessage | None:
        """Return what has become certain with the next piece, None if nothing has."""
        if self._reader is None:
            self._reader = CallReader(self._functions(request))
        return self._message(self._reader.feed(delta_text))

    def finish_streaming(self) -> DeltaMessage | None:
        """Return what has become certain with the end of the answer, None if nothing has."""
        return self._message(self._reader.end()) if self._reader is not None else None

    def _functions(self, request: Any) -> dict[str, tuple[str, ...]]:
        if request.tool_choice == "none":
            return {}
        # The chat API nests a tool's function, the responses API does not.
        functions = [getattr(tool, "function", tool) for tool in self.tools]
        return {function.name: _parameters(function) for function in functions}

    def _message(self, found: Found) -> DeltaMessage | None:
        # What is not set is not sent, and `"content": null` beside a call would be.
        parts: dict[str, Any] = {"content": found.text} if found.text else {}
        if found.calls:
            parts["tool_calls"] = [self._delta(call) for call in found.calls]
        return DeltaMessage(**parts) if parts else None

    def _delta(self, call: Call) -> DeltaToolCall:
        self._count += 1
        function = DeltaFunctionCall(name=call.name, arguments=call.arguments)
        return DeltaToolCall(index=self._count - 1, id=_tool_call(call).id, type="function", function=function)


def _tool_call(call: Call) -> ToolCall:
    return ToolCall(function=FunctionCall(name=call.name, arguments=call.arguments))  # makes its own id


def _parameters(function: Any) -> tuple[str, ...]:
    properties = (function.parameters or {}).get("properties")
    return tuple(properties) if isinstance(properties, dict) else ()


ToolParserManager.register_module(NAME, module=PythonCallParser)
