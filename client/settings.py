"""The settings of the client: `LLM_*` from the environment and `.env`, read and checked when a client is made."""

from __future__ import annotations

import json
import re
from pathlib import Path  # noqa: TC003 - pydantic reads it
from typing import TYPE_CHECKING, Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from client.errors import ConfigurationError
from client.variables import Variables, setting

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "LLM_"
DEFAULT_BASE_URL = "http://localhost:8000/v1"
DEFAULT_MODEL = "google/gemma-3-27b-it"
NO_KEY = "EMPTY"
OMIT: Final = "omit"
RUNPOD_FIRST_TOKEN_TIMEOUT = 600.0
FIRST_TOKEN_TIMEOUT = 60.0

_URL = "an http:// or https:// address, such as " + DEFAULT_BASE_URL
_SECONDS = "a number of seconds, more than 0"
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER = re.compile(r"\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*[:=](.*)")
_BETWEEN_HEADERS = re.compile(r"\s*\n\s*|\s*,\s*(?=[0-9A-Za-z_-]+\s*[:=])")


def _address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError(_URL)
    if not url.isprintable() or " " in url:
        raise ValueError(_URL)
    return url if parts.query else url.rstrip("/").removesuffix("/chat/completions")  # which people paste along


def _key(key: SecretStr) -> SecretStr:
    value = key.get_secret_value()
    if not value:
        return SecretStr(NO_KEY)
    if not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("not sendable")
    return key


def checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return `headers` if they can be sent. Raises ConfigurationError, which names the header and never its value."""
    try:
        items = list(headers.items())
    except AttributeError as error:
        raise ConfigurationError("default_headers must be a dictionary of names and values.") from error
    for name, value in items:
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise ConfigurationError(f"The header {name!r} is not allowed: a name is letters, digits and dashes.")
        if not isinstance(value, str) or not value.isprintable() or not value.isascii():
            raise ConfigurationError(f"The header {name!r} is not allowed: its value must be printable ASCII.")
    return dict(items)


def parse_headers(text: SecretStr | None) -> dict[str, str]:
    """Return the headers in `text`: a JSON object, or `Name: value` pairs, one a line or with commas between them."""
    given = text.get_secret_value().strip() if text else ""
    if given.startswith("{"):
        return checked_headers({str(name): str(value) for name, value in json.loads(given).items()})
    headers = {}
    for pair in _BETWEEN_HEADERS.split(given) if given else ():
        found = _HEADER.match(pair)
        if found is None:
            raise ValueError("no name and value")
        headers[found[1]] = found[2].strip()
    return checked_headers(headers)


def _headers(text: SecretStr) -> SecretStr:
    try:
        parse_headers(text)
    except (ValueError, ConfigurationError):
        raise ValueError("not sendable") from None  # the cause may quote a secret
    return text


Address = Annotated[str, AfterValidator(_address)]
Key = Annotated[SecretStr, AfterValidator(_key)]
Headers = Annotated[SecretStr, AfterValidator(_headers)]


class ClientSettings(Variables):
    """Where to ask, as whom, and how long to wait. `None` means: the default of the place that uses it."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)

    # Not in the repr: an address may hold a password.
    base_url: Address = setting(
        DEFAULT_BASE_URL, _URL, "the endpoint: vLLM, RunPod's `/openai/v1` or OpenAI", repr=False
    )
    api_key: Key = setting(SecretStr(NO_KEY), "printable ASCII without spaces", "key sent to it")
    model: str | None = setting(
        None, "a model's name", f"model to ask for; unset: `{DEFAULT_MODEL}`, in the terminal the server's only one"
    )
    max_tokens: Annotated[int, Field(ge=0)] | Literal["omit"] = setting(
        256, f"a number of tokens, 0 or more, or {OMIT}", f"longest answer, in tokens; `{OMIT}` sends no limit"
    )
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["omit"] = setting(
        0.7, f"a number, 0 or more, or {OMIT}", f"sampling temperature; 0 is greedy, `{OMIT}` the server's own"
    )
    connect_timeout: float = setting(
        5.0, _SECONDS, "longest wait for a connection, in seconds", gt=0, allow_inf_nan=False
    )
    first_token_timeout: float | None = setting(
        None,
        _SECONDS,
        "longest wait for the first token, retries included, in seconds; unset: 60, or 600 for a RunPod address",
        gt=0,
        allow_inf_nan=False,
    )
    idle_timeout: float = setting(
        30.0, _SECONDS, "longest silence between two tokens, in seconds", gt=0, allow_inf_nan=False
    )
    total_timeout: float | None = setting(
        None, _SECONDS, "longest time for a whole answer, in seconds; unset: none", gt=0, allow_inf_nan=False
    )
    max_retries: int = setting(
        2, "a number, 0 or more", "how often a request that failed before its answer began is sent again", ge=0
    )
    max_concurrency: int | None = setting(
        None, "a number, 1 or more", "requests in flight at the same time; unset: no limit", ge=1
    )
    headers: Headers | None = setting(
        None,
        "`Name: value` pairs, one a line or with commas between them",
        "headers for each request to `LLM_BASE_URL`, as `Name: value, Other: value`",
    )
    ca_file: Path | None = setting(
        None, "a file of certificates", "certificates to trust, in PEM form, beside the system's"
    )
    traces: bool = setting(
        False, "1 or 0", "OpenTelemetry spans of the client's own; leave it off where the openai client is instrumented"
    )
    fallback_base_url: Address | None = setting(
        None, _URL, "second endpoint, for when the first is unreachable or answers 429 or 5xx", repr=False
    )
    fallback_api_key: Key = setting(SecretStr(NO_KEY), "printable ASCII without spaces", "key sent to the second")
    fallback_model: str | None = setting(None, "a model's name", "model to ask the second for; unset: the same")
