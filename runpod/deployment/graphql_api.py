"""RunPod's cached model: the one setting that only the GraphQL API has.

`saveEndpoint` with an id replaces the whole endpoint, and what is left out falls back to defaults: so everything is
read first and sent back with it. Values travel as GraphQL variables, never inside the query's text.
Source: https://github.com/runpod/runpodctl (internal/api/endpoints.go).
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import httpx2
from pydantic import ConfigDict

from deployment.answers import Answer, Id, read
from deployment.errors import ApiError, DeployError, Unreachable
from deployment.rest_api import TIMEOUT, USER_AGENT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deployment.answers import Endpoint
    from deployment.masking import Redactor

Json = dict[str, Any]

_FIELDS = """
    id name templateId gpuIds gpuCount instanceIds workersMin workersMax locations networkVolumeId
    networkVolumeIds { networkVolumeId } idleTimeout scalerType scalerValue executionTimeoutMs minCudaVersion
    flashBootType modelReferences
"""
READ = f"query Endpoints {{ myself {{ endpoints {{ {_FIELDS} }} }} }}"
SAVE = "mutation SaveEndpoint($input: EndpointInput!) { saveEndpoint(input: $input) { id modelReferences } }"
TYPES = {"QUEUE": "QB", "LOAD_BALANCER": "LB"}


class StoredEndpoint(Answer):
    """An endpoint with all that is sent back."""

    model_config = ConfigDict(extra="allow")

    id: Id
    model_references: tuple[str, ...] = ()


class _Account(Answer):
    endpoints: list[StoredEndpoint]


class _Data(Answer):
    myself: _Account | None = None
    save_endpoint: Answer | None = None


class _Error(Answer):
    message: str = ""


class _Reply(Answer):
    data: _Data | None = None
    errors: tuple[_Error, ...] = ()


def reference(checkpoint: str) -> str:
    """Return how the platform names a model of the Hugging Face hub."""
    return f"https://huggingface.co/{checkpoint}:main"


def repository(reference: str) -> str:
    """Return a reference's model: RunPod turns `:main` into the commit that it finds, and `owner/name` is the same."""
    name = re.sub(r"^(https?://)?(www\.)?(huggingface\.co|hf\.co)/", "", reference.strip(), flags=re.IGNORECASE)
    return re.split(r"[:@]|/tree/|/blob/", name, maxsplit=1)[0].strip("/").lower()


def same_models(one: Sequence[str], other: Sequence[str]) -> bool:
    """Return whether two lists of references are of the same models, of whatever commits."""
    return {*map(repository, one)} == {*map(repository, other)}


class CachedModel:
    """Read and set an endpoint's cached model."""

    def __init__(self, url: str, key: str, redact: Redactor, or_else: str) -> None:
        """Take the GraphQL API's address and the key, which travels in a header and never in the address."""
        self._or_else = or_else
        self._url = url
        self._redact = redact
        self._headers = {"Authorization": f"Bearer {key}", "User-Agent": USER_AGENT}

    def current(self, endpoint_id: str) -> tuple[str, ...]:
        """Return the model references of an endpoint."""
        return self._endpoint(endpoint_id).model_references

    def set(self, endpoint: Endpoint, references: Sequence[str]) -> bool:
        """Let RunPod cache these models for the endpoint; return whether that was a change."""
        stored = self._endpoint(endpoint.id)
        if same_models(stored.model_references, references):
            return False
        given = stored.model_dump(by_alias=True, exclude_none=True)
        kind = TYPES.get(endpoint.type, "QB")
        self._call(SAVE, {"input": {**given, "type": kind, "modelReferences": [*references]}})
        return True

    def _endpoint(self, endpoint_id: str) -> StoredEndpoint:
        account = self._call(READ, {}).myself
        found = next((item for item in account.endpoints if item.id == endpoint_id), None) if account else None
        if found is None:
            raise DeployError(
                f"RunPod's GraphQL API does not know endpoint {endpoint_id}, so that no cached model can be set: "
                f"check RUNPOD_GRAPHQL_URL, or {self._or_else}."
            )
        return found

    def _call(self, query: str, variables: Json) -> _Data:
        try:
            answer = httpx2.post(
                self._url, json={"query": query, "variables": variables}, headers=self._headers, timeout=TIMEOUT
            )
        except httpx2.RequestError as error:
            raise Unreachable(
                f"RunPod's GraphQL API does not answer: check RUNPOD_GRAPHQL_URL, or {self._or_else}."
            ) from error
        try:
            reply, odd = read(_Reply, answer.content), ""
        except ValueError as error:
            reply, odd = _Reply(), f"an odd answer ({error})"
        errors = "; ".join(item.message for item in reply.errors) or odd
        if not answer.is_success or errors or reply.data is None:
            raise ApiError(
                f"RunPod's GraphQL API refused the cached model ({answer.status_code}): "
                f"{self._redact(errors) or 'no reason given'}; or {self._or_else}.",
                answer.status_code if answer.is_error else HTTPStatus.UNPROCESSABLE_ENTITY,
            )
        return reply.data
