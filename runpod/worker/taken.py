"""What a call of job-take brought, read item by item: one that is odd never hurts the others."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from worker.job_error import JobError
from worker.job_input import Request, read_job

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

ID_LIMIT = 500  # characters; an id becomes a part of an address
_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_TOKEN = re.compile(rf"{_STRING}|[\[\]{{}},]", re.DOTALL)
_ID_VALUE = re.compile(rf"\s*:\s*({_STRING}|\d+)")


@dataclass(frozen=True)
class Taken:
    """One job. `problem`: why its input cannot be read, if so."""

    id: str
    input: Any = None
    problem: JobError | None = None

    def request(self, model: str) -> Request:
        """Return what the job asks of vLLM. Raises JobError."""
        if self.problem is not None:
            raise self.problem
        return read_job(self.input, model)


def read_taken(body: bytes) -> list[Taken]:
    """Read a job, or a list of jobs.

    An item without an id cannot be answered: it is logged and left. One with an id whose rest cannot be read becomes a
    job with a problem, so that it fails and does not stay in progress for ever.
    """
    text = body.decode("utf-8", "replace")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):  # broken, nested too deep, a number of thousands of digits
        jobs = [_salvage(item) for item in _items(text) if item.strip()]
    else:
        jobs = [_job(item) for item in (found if isinstance(found, list) else [found])]
    taken = [job for job in jobs if job is not None]
    if odd := len(jobs) - len(taken):
        logger.warning("job-take brought %d items that are no jobs", odd)
    return taken


def _job(item: Any) -> Taken | None:
    job_id = item.get("id") if isinstance(item, dict) else None
    if isinstance(job_id, int) and not isinstance(job_id, bool):
        job_id = str(job_id)
    if not isinstance(job_id, str) or not 0 < len(job_id) <= ID_LIMIT:
        return None
    try:
        job_id.encode()
    except UnicodeEncodeError:
        return None
    if "input" not in item:
        return Taken(job_id, problem=JobError(400, "The job has no input."))
    return Taken(job_id, item["input"])


def _salvage(item: str) -> Taken | None:
    try:
        return _job(json.loads(item))
    except json.JSONDecodeError:
        problem = JobError(502, "The job did not arrive whole; send the request again.")
    except (ValueError, RecursionError):
        problem = JobError(
            400, "The job cannot be read: it is nested too deep, or has a number of thousands of digits."
        )
    for token in _tokens(item, 1):
        if token[0] == '"id"' and (value := _ID_VALUE.match(item, token.end())):
            job = _job({"id": json.loads(value[1])})
            return job and Taken(job.id, problem=problem)
    return None


def _items(text: str) -> Iterator[str]:
    """Yield the items of the list that `text` is, or all of it if it is none, without going into them."""
    if not text.lstrip().startswith("["):
        yield text
        return
    start = text.index("[") + 1
    for token in _tokens(text, 1):
        if token[0] in ",]":
            yield text[start : token.start()]
            start = token.end()
    yield text[start:]  # nothing, unless the list was cut


def _tokens(text: str, wanted: int) -> Iterator[re.Match[str]]:
    """Yield the strings, commas and brackets that stand inside `wanted` levels of brackets."""
    depth = 0
    for token in _TOKEN.finditer(text):
        if depth == wanted and token[0] not in "[{":
            yield token
        depth += (token[0] in "[{") - (token[0] in "]}")
