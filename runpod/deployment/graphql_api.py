"""RunPod's cached model: the one setting that only the GraphQL API has.

`saveEndpoint` with an id replaces the whole endpoint, and what is left out falls back to defaults: so everything is
read first and sent back with it. Values travel as GraphQL variables, never inside the query's text.
Source: https://github.com/runpod/runpodctl (internal/api/endpoints.go).
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import httpx2

from deployment.errors import ApiError, DeployError, Unreachable
from deployment.rest_api import TIMEOUT, USER_AGENT

if TYPE_CHECKING:
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


def reference(checkpoint: str) -> str:
    """Return how the platform names a model of the Hugging Face hub."""
    return f"https://huggingface.co/{checkpoint}:main"


class CachedModel:
    """Read and set an endpoint's cached model."""

    def __init__(self, url: str, key: str, redact: Redactor) -> None:
        """Take the GraphQL API's address and the key, which travels in a header and never in the address."""
        self._url = url
        self._redact = redact
        self._headers = {"Authorization": f"Bearer {key}", "User-Agent": USER_AGENT}

    def current(self, endpoint_id: str) -> list[str]:
        """Return the model references of an endpoint."""
        return list(self._endpoint(endpoint_id).get("modelReferences") or [])

    def set(self, endpoint: Json, checkpoint: str) -> bool:
        """Let RunPod cache `checkpoint` for the endpoint (as the REST API gave it); tell whether that was a change."""
        stored = self._endpoint(endpoint["id"])
        wanted = [reference(checkpoint)]
        if stored.get("modelReferences") == wanted:
            return False
        given = {field: value for field, value in stored.items() if value is not None}
        self._call(SAVE, {"input": {**given, "type": TYPES[endpoint["type"]], "modelReferences": wanted}})
        return True

    def _endpoint(self, endpoint_id: str) -> Json:
        account = self._call(READ, {}).get("myself") or {}
        found = next((item for item in account.get("endpoints") or () if item["id"] == endpoint_id), None)
        if found is None:
            raise DeployError(
                f"RunPod's GraphQL API does not know endpoint {endpoint_id}, so that no cached model can be set: "
                "check RUNPOD_GRAPHQL_URL, or set DEPLOY_CACHED_MODEL=0."
            )
        return dict(found)

    def _call(self, query: str, variables: Json) -> Json:
        try:
            answer = httpx2.post(
                self._url, json={"query": query, "variables": variables}, headers=self._headers, timeout=TIMEOUT
            )
        except httpx2.TransportError as error:
            raise Unreachable(
                "RunPod's GraphQL API does not answer: check RUNPOD_GRAPHQL_URL, or set DEPLOY_CACHED_MODEL=0."
            ) from error
        try:
            body = answer.json()
        except ValueError:
            body = {}
        errors = "; ".join(str(item.get("message")) for item in body.get("errors") or ())
        if answer.is_error or errors or not body.get("data"):
            raise ApiError(
                f"RunPod's GraphQL API refused the cached model ({answer.status_code}): "
                f"{self._redact(errors) or 'no reason given'}; or set DEPLOY_CACHED_MODEL=0.",
                HTTPStatus(answer.status_code) if answer.is_error else HTTPStatus.UNPROCESSABLE_ENTITY,
            )
        return dict(body["data"])
