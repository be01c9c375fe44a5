"""RunPod's own description of its API, against which the stand-in checks every request and every answer."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

Json = dict[str, Any]

FILE = Path(__file__).with_name("runpod-api-v2.openapi.json")


@functools.cache
def described() -> Description:
    """Return the description, read once for all tests."""
    return Description()


class Description:
    """The calls and the schemas of the API's description."""

    def __init__(self) -> None:
        self._description = json.loads(FILE.read_text(encoding="utf-8"))
        resource = DRAFT202012.create_resource(self._description)
        self._registry = Registry().with_resource("urn:runpod", resource)
        self._validators: dict[str, Draft202012Validator] = {}

    def errors(self, name: str, value: Any) -> list[str]:
        """Return what is wrong with `value`, each with its path."""
        if name not in self._validators:
            schema = {"$ref": f"urn:runpod#/components/schemas/{name}"}
            self._validators[name] = Draft202012Validator(schema, registry=self._registry)
        found = self._validators[name].iter_errors(value)
        return [f"{'.'.join(map(str, error.absolute_path)) or 'body'}: {error.message}" for error in found]

    def operation(self, method: str, path: str) -> Json | None:
        """Return what is said of a call, None if there is no such."""
        for template, operations in self._description["paths"].items():
            parts, given = template.split("/"), path.split("/")
            if len(parts) == len(given) and all(p == g or p.startswith("{") for p, g in zip(parts, given, strict=True)):
                found: Json | None = operations.get(method.lower())
                return found
        return None

    def query_names(self, operation: Json) -> set[str]:
        """Return the names that a call may have in its query."""
        parameters = self._description["components"]["parameters"]
        named = {item.get("name") or item["$ref"].rpartition("/")[2] for item in operation.get("parameters", ())}
        return {str(parameters.get(name, {}).get("name", name)) for name in named}
