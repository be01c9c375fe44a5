"""Ask vLLM's own parser of arguments. Runs in the engine's environment: argument lists as JSON on stdin.

Prints, for each list that follows `vllm serve`, null if vLLM would take it, else what it says.
"""

import contextlib
import dataclasses
import io
import json
import os
import sys

ANSWERS = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)

from vllm.config import SpeculativeConfig  # noqa: E402
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args  # noqa: E402
from vllm.parser.parser_manager import ParserManager  # noqa: E402
from vllm.tool_parsers.abstract_tool_parser import ToolParserManager  # noqa: E402
from vllm.utils.argparse_utils import FlexibleArgumentParser  # noqa: E402

parser = make_arg_parser(FlexibleArgumentParser())
SPECULATION = {field.name for field in dataclasses.fields(SpeculativeConfig)}


def problem(arguments):
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            args = parser.parse_args(arguments)
        args.subparser = "serve"
        validate_parsed_serve_args(args)
        if args.tool_parser_plugin:
            ToolParserManager.import_tool_parser(args.tool_parser_plugin)
        for name in args.speculative_config or ():
            assert name in SPECULATION, f"{name} is nothing that --speculative-config knows"
        reasoning = getattr(args, "reasoning_parser", None) or args.structured_outputs_config.reasoning_parser
        ParserManager.get_parser(
            args.tool_call_parser, reasoning or None, enable_auto_tools=args.enable_auto_tool_choice, model_name="model"
        )
    except SystemExit:
        return said.getvalue().strip()[-500:] or "it exits"
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:500]
    return None


json.dump([problem(arguments) for arguments in json.load(sys.stdin)], ANSWERS)
ANSWERS.flush()
