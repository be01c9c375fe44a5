"""Settings from environment variables: how the kit declares, reads, checks and names them."""

from __future__ import annotations

import difflib
import logging
import os
from typing import TYPE_CHECKING, Any, Self

from dotenv import dotenv_values
from pydantic import AliasChoices, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from serving.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

logger = logging.getLogger(__name__)


def setting(default: Any, allowed: str, about: str, **kwargs: Any) -> Any:
    """Declare a field: `allowed` completes "it must be ..." in an error, `about` is its line in the README."""
    return Field(default, description=about, json_schema_extra={"allowed": allowed}, **kwargs)


class Variables(BaseSettings):
    """Read the variables with one prefix (`env_prefix`) from an env file and the environment, which wins.

    Whatever else there is, is left alone; an empty variable is an unset one; no secret gets into an error.
    """

    model_config = SettingsConfigDict(
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
        protected_namespaces=(),
    )

    @classmethod
    def load(cls, env_file: str | Path | None = ".env") -> Self:
        """Read and check them; log a warning for each name with our prefix that means nothing.

        Raises ConfigurationError with one sentence that names the variable, its value and what is allowed.
        """
        try:
            present = {*os.environ, *(dotenv_values(env_file) if env_file else ())}
            settings = cls(_env_file=env_file)  # type: ignore[call-arg]
        except ValidationError as error:
            raise ConfigurationError(cls._sentence(error, present)) from None  # the cause may quote a secret
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{env_file} cannot be read: {error}.") from error
        for warning in cls.unknown(present):
            logger.warning(warning)
        return settings

    @classmethod
    def variable(cls, field: str) -> str:
        """Return the name of the variable behind a field."""
        return cls._names(field)[0]

    @classmethod
    def unknown(cls, names: Iterable[str]) -> list[str]:
        """Return a warning for each of `names` that has our prefix and means nothing, with the nearest that does."""
        prefix = cls.model_config.get("env_prefix", "")
        known = {cls.variable(field) for field in cls.model_fields}
        warnings = []
        for name in sorted(names):
            if name.upper().startswith(prefix) and name.upper() not in known:
                near = difflib.get_close_matches(name.upper(), known, n=1)
                hint = f": did you mean {near[0]}?" if near else "."
                warnings.append(f"{name} is not a setting and does nothing{hint}")
        return warnings

    @classmethod
    def _names(cls, field: str) -> tuple[str, ...]:
        alias = cls.model_fields[field].validation_alias
        if isinstance(alias, AliasChoices):
            return tuple(str(choice) for choice in alias.choices)
        return (alias,) if isinstance(alias, str) else (f"{cls.model_config.get('env_prefix', '')}{field.upper()}",)

    @classmethod
    def _sentence(cls, error: ValidationError, present: set[str]) -> str:
        first = error.errors(include_url=False)[0]
        if not first["loc"]:
            return str(first["msg"]).removeprefix("Value error, ")
        given = str(first["loc"][0]).upper()
        field = next(name for name in cls.model_fields if given in (name.upper(), *cls._names(name)))
        info = cls.model_fields[field]
        extra = info.json_schema_extra
        allowed = extra["allowed"] if isinstance(extra, dict) else str(first["msg"]).lower()
        name = next((name for name in cls._names(field) if name in present), cls.variable(field))
        if "SecretStr" in str(info.annotation):
            return f"{name} is not allowed: it must be {allowed}."
        value = ",".join(first["input"]) if isinstance(first["input"], tuple) else str(first["input"])
        return f"{name}={value!r} is not allowed: it must be {allowed}."
