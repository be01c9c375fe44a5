"""The settings of the client: `LLM_*` from the environment and `.env`, read and checked when a client is made."""

from __future__ import annotations

from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from client.variables import Variables, setting

PREFIX = "LLM_"
DEFAULT_BASE_URL = "http://localhost:8000/v1"
DEFAULT_MODEL = "google/gemma-3-27b-it"
NO_KEY = "EMPTY"
OMIT: Final = "omit"
RUNPOD_FIRST_TOKEN_TIMEOUT = 600.0
FIRST_TOKEN_TIMEOUT = 60.0

_URL = "an http:// or https:// address, such as " + DEFAULT_BASE_URL
_SECONDS = "a number of seconds, more than 0"


def _address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0 or any(c.isspace() for c in url):
        raise ValueError(_URL)
    return url.rstrip("/")


def _key(key: SecretStr) -> SecretStr:
    value = key.get_secret_value()
    if not value:
        return SecretStr(NO_KEY)
    if not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("not sendable")
    return key


Address = Annotated[str, AfterValidator(_address)]
Key = Annotated[SecretStr, AfterValidator(_key)]


class ClientSettings(Variables):
    """Say where to ask, as whom, and how long to wait. `None` means: the default of the place that uses it."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)

    base_url: Address = setting(DEFAULT_BASE_URL, _URL, "the endpoint: vLLM, RunPod's `/openai/v1` or OpenAI")
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
    fallback_base_url: Address | None = setting(
        None, _URL, "second endpoint, for when the first is unreachable or answers 429 or 5xx"
    )
    fallback_api_key: Key = setting(SecretStr(NO_KEY), "printable ASCII without spaces", "key sent to the second")
    fallback_model: str | None = setting(None, "a model's name", "model to ask the second for; unset: the same")
