"""Run by the engine's own Python: let vLLM's own check judge JSON schemas, before and after the kit's module is loaded.

Prints one JSON object. Usage: schemas_in_engine.py FOLDER_OF_THE_MIDDLEWARE
"""

import json
import sys

import xgrammar
from pydantic import ValidationError
from vllm.config.structured_outputs import StructuredOutputsConfig
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.v1.structured_output.backend_xgrammar import validate_xgrammar_grammar


def field(**schema):
    return {"type": "object", "properties": {"n": schema}, "required": ["n"]}


SCHEMAS = {
    "plain": field(type="integer"),
    "set": field(type="array", items={"type": "string"}, uniqueItems=True),
    "contains": field(type="array", contains={"type": "integer"}),
    "multiple": field(type="integer", multipleOf=5),
    "format": field(type="string", format="idn-email"),
    "length": field(type="string", pattern="^a+$", maxLength=3),
    "names": {"type": "object", "propertyNames": {"pattern": "^a+$", "maxLength": 3}},
}


def judged(schema):
    params = SamplingParams(structured_outputs=StructuredOutputsParams(json=schema))
    try:
        validate_xgrammar_grammar(params)
    except VLLMValidationError as error:
        return str(error)
    xgrammar.Grammar.from_json_schema(json.dumps(schema), any_whitespace=False, separators=(",", ":"))
    return "taken"


def whitespace_needs_a_named_backend():
    try:
        StructuredOutputsConfig(backend="auto", disable_any_whitespace=True)
    except (ValidationError, ValueError):
        return True
    return False


before = {name: judged(schema) for name, schema in SCHEMAS.items()}
sys.path.insert(0, sys.argv[1])
import any_schema  # noqa: E402

after = {name: judged(schema) for name, schema in SCHEMAS.items()}
after["nonsense"] = judged({"type": "nonsense"})
assert any_schema.AnySchema("application") == "application"
print(json.dumps({"named": whitespace_needs_a_named_backend(), "before": before, "after": after}))
