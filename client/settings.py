"""The settings of the client: `LLM_*` from the environment and `.env`, read and checked when a client is made."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from client.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = "LLM_"
DEFAULT_MODEL = "google/gemma-3-27b-it"
NO_KEY = "EMPTY"
RUNPOD_FIRST_TOKEN_TIMEOUT = 600.0
FIRST_TOKEN_TIMEOUT = 60.0

_URL = "an http:// or https:// address, such as http://localhost:8000/v1"
_SECONDS = "a number of seconds, more than 0"


def setting(default: Any, allowed: str, about: str, **kwargs: Any) -> Any:
    """Declare a field: `allowed` completes "it must be ..." in an error, `about` is its line in the README."""
    return Field(default, description=about, json_schema_extra={"allowed": allowed}, **kwargs)


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


class ClientSettings(BaseSettings):
    """Say where to ask, as whom, and how long to wait. `None` means: the default of the place that uses it."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )

    base_url: Address = setting("http://localhost:8000/v1", _URL, "the endpoint: vLLM, RunPod's `/openai/v1` or OpenAI")
    api_key: Key = setting(SecretStr(NO_KEY), "printable ASCII without spaces", "key sent to it")
    model: str | None = setting(
        None, "a model's name", f"model to ask for; unset: `{DEFAULT_MODEL}`, in the terminal the server's only one"
    )
    max_tokens: int = setting(256, "a number of tokens, 0 or more", "longest answer, in tokens", ge=0)
    temperature: float = setting(
        0.7, "a number, 0 or more", "sampling temperature; 0 is greedy", ge=0, allow_inf_nan=False
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

    @classmethod
    def load(cls, env_file: str | Path | None = ".env", **given: Any) -> ClientSettings:
        """Read the environment and `env_file`; what is `given` and not None wins over both.

        Raises ConfigurationError with one sentence that names the variable, its value and what is allowed.
        """
        given = {name: value for name, value in given.items() if value is not None}
        try:
            return cls(_env_file=env_file, **given)  # type: ignore[call-arg]
        except ValidationError as error:
            raise ConfigurationError(_sentence(error, given)) from None  # the cause may quote a secret
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{env_file} cannot be read: {error}.") from error


def variable(field: str) -> str:
    """Return the name of the environment variable behind a field of ClientSettings."""
    return f"{PREFIX}{field.upper()}"


def _sentence(error: ValidationError, given: dict[str, Any]) -> str:
    first = error.errors(include_url=False)[0]
    field = str(first["loc"][0])
    info = ClientSettings.model_fields[field]
    extra = info.json_schema_extra
    allowed = extra["allowed"] if isinstance(extra, dict) else first["msg"]
    name = field if field in given else variable(field)
    if "key" in field:
        return f"{name} is not allowed: it must be {allowed}."
    value = re.sub(r"//[^/@]*@", "//***@", str(first["input"]))
    return f"{name}={value!r} is not allowed: it must be {allowed}."
