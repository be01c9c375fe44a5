"""Run by the engine's own Python: let vLLM load the kit's tool parser and read answers with it, whole and in pieces.

Prints one JSON object; `answers` is imported from beside this file. Usage: read_in_engine.py PLUGIN SEED
"""

import json
import random
import sys
from itertools import pairwise
from types import SimpleNamespace

from answers import CALLS, TEXTS, TOOLS
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.parser.parser_manager import ParserManager
from vllm.tool_parsers.abstract_tool_parser import ToolParserManager

plugin, seed = sys.argv[1], int(sys.argv[2])
randomness = random.Random(seed)
ToolParserManager.import_tool_parser(plugin)
Parser = ParserManager.get_parser("python_calls", None, enable_auto_tools=True, model_name="gemma")
TOKENIZER = SimpleNamespace(get_vocab=dict)


def request(**kwargs):
    return ChatCompletionRequest(model="gemma", messages=[{"role": "user", "content": "Weather?"}], **kwargs)


def responses_request():
    tools = [{"type": "function", **tool["function"]} for tool in TOOLS]
    return ResponsesRequest(model="gemma", input="Weather?", tools=tools)


def whole(answer, asked):
    _, content, calls = Parser(TOKENIZER, asked.tools).parse(answer, asked, enable_auto_tools=True)
    return content or "", [(call.name, json.loads(call.arguments)) for call in calls or ()]


def streamed(answer, asked):
    parser, content, calls, ids = Parser(TOKENIZER, asked.tools), "", [], []
    places = sorted(randomness.sample(range(len(answer) + 1), randomness.randint(0, min(len(answer), 12))))
    borders = [0, *places, len(answer)]
    pieces = [answer[start:end] for start, end in pairwise(borders)]
    for number, piece in enumerate(pieces, 1):
        message = parser.parse_delta(piece, [1], asked, [2], finished=number == len(pieces))
        if message is None:
            continue
        content += message.content or ""
        for call in message.tool_calls:
            assert call.index == len(calls), call
            ids.append(call.id)
            calls.append((call.function.name, json.loads(call.function.arguments)))
        sent = json.loads(message.model_dump_json(exclude_unset=True))
        assert None not in sent.values(), sent
    assert len(set(ids)) == len(ids)
    assert all(ids)
    return content, calls


wrong = []
answers = [*((text, text, []) for text in TEXTS), *((answer, text or "", calls) for answer, text, calls in CALLS)]
for kind, asked in (("chat", request(tools=TOOLS)), ("responses", responses_request())):
    for answer, *expected in answers:
        for got in (whole(answer, asked), *(streamed(answer, asked) for _ in range(5))):
            if list(got) != expected:
                wrong.append([kind, answer, expected, got])
for asked in (request(), request(tools=TOOLS, tool_choice="none")):
    for answer, *_ in answers:
        for got in (whole(answer, asked), streamed(answer, asked)):
            if list(got) != [answer, []]:
                wrong.append(["none", answer, got])
print(json.dumps({"answers": len(answers), "wrong": wrong}))
