"""Settings from environment variables and `.env`: how all of the kit declares, reads, checks and names them."""

from __future__ import annotations

import difflib
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from dotenv.parser import parse_stream
from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from client.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pydantic.fields import FieldInfo

logger = logging.getLogger(__name__)

_warned: set[str] = set()


def setting(default: Any, allowed: str, about: str, **kwargs: Any) -> Any:
    """Declare a field: `allowed` completes "it must be ..." in an error, `about` is its line in the documentation."""
    return Field(default, description=about, json_schema_extra={"allowed": allowed}, **kwargs)


class EnvFileError(ValueError):
    """An env file that cannot be read, or has a line that makes no sense; says which, and never quotes it."""


def read_env_file(path: str | Path | None) -> dict[str, str]:
    """Return the variables of an env file as they stand there: `${X}` is not expanded. No file, no variables.

    Comments, `export` and quotes are those of python-dotenv, which does the parsing. Raises EnvFileError for a file
    that is there and cannot be read, and for a line that is no assignment, such as one with a quote left open: the
    variable on it would be missing, and a server without its key is an open one.
    """
    if path is None:
        return {}
    try:
        with Path(path).expanduser().open(encoding="utf-8-sig") as file:
            bindings = list(parse_stream(file))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except IsADirectoryError:
        return {}  # a virtual environment, by some people's habit
    except (OSError, UnicodeDecodeError) as error:
        raise EnvFileError(f"{path} cannot be read: {error}.") from error
    for binding in bindings:
        if binding.error:
            raise EnvFileError(
                f"{path}, line {binding.original.line}: not a NAME=value, or a quote that is not closed. "
                "Mend or remove the line."
            )
    last = {binding.key: binding.value for binding in bindings if binding.key}
    return {name: value for name, value in last.items() if value is not None}


class _Source(PydanticBaseSettingsSource):
    """Finds the fields of a settings class in a mapping of variables; letter case does not matter."""

    def __init__(self, settings_cls: type[BaseSettings], variables: Mapping[str, str]) -> None:
        super().__init__(settings_cls)
        self._variables = {name.upper(): value for name, value in variables.items() if value}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the field's value (None: not set), its key, and that it is no JSON."""
        names = names_of(field_name, field, self.config.get("env_prefix", ""))
        return next((self._variables[name] for name in names if name in self._variables), None), field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the values of the fields that are set."""
        found = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in found.items() if value is not None}


def names_of(field: str, info: FieldInfo, prefix: str) -> tuple[str, ...]:
    """Return the names of the variables behind a field, the one to be shown first."""
    alias = info.validation_alias
    if isinstance(alias, AliasChoices):
        return tuple(str(choice) for choice in alias.choices)
    return (alias,) if isinstance(alias, str) else (f"{prefix}{field.upper()}",)


class Variables(BaseSettings):
    """The variables with one prefix (`env_prefix`) from an env file and the environment, which wins.

    Whatever else there is, is left alone; an empty variable is an unset one; no secret gets into an error. A bad value
    raises `error`, which a subclass sets to the class of its own package.
    """

    model_config = SettingsConfigDict(
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
        protected_namespaces=(),
    )
    error: ClassVar[type[Exception]] = ConfigurationError
    # Every prefix that has been declared, with the names that mean something under it.
    prefixes: ClassVar[dict[str, set[str]]] = {}

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Make the names of a new subclass known to the warning for misspelt ones."""
        super().__pydantic_init_subclass__(**kwargs)
        if prefix := cls.model_config.get("env_prefix"):
            names = {name for field in cls.model_fields for name in cls._names(field)}
            Variables.prefixes.setdefault(prefix, set()).update(names)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let both the environment and the file be read by `_Source`, so that one reader decides what a file says."""
        file = read_env_file(getattr(dotenv_settings, "env_file", None))
        return init_settings, _Source(settings_cls, os.environ), _Source(settings_cls, file)

    @classmethod
    def load(cls, env_file: str | Path | None = ".env", **given: Any) -> Self:
        """Read the environment and `env_file`; what is `given` and not None wins over both.

        Logs a warning, once, for each name with one of the kit's prefixes that means nothing. Raises `cls.error` with
        one sentence that names the variable, its value and what is allowed.
        """
        given = {name: value for name, value in given.items() if value is not None}
        try:
            present = {*os.environ, *read_env_file(env_file)}
            settings = cls(_env_file=env_file, **given)  # type: ignore[call-arg]
        except ValidationError as error:
            raise cls.error(cls._sentence(error, present, given)) from None  # the cause may quote a secret
        except EnvFileError as error:
            raise cls.error(str(error)) from error
        warn_of_misspelt_names(present)
        return settings

    @classmethod
    def variable(cls, field: str) -> str:
        """Return the name of the variable behind a field."""
        return cls._names(field)[0]

    @classmethod
    def _names(cls, field: str) -> tuple[str, ...]:
        return names_of(field, cls.model_fields[field], cls.model_config.get("env_prefix", ""))

    @classmethod
    def _sentence(cls, error: ValidationError, present: set[str], given: dict[str, Any]) -> str:
        first = error.errors(include_url=False)[0]
        if not first["loc"]:
            return str(first["msg"]).removeprefix("Value error, ")
        blamed = str(first["loc"][0])
        field = next(name for name in cls.model_fields if blamed.upper() in (name.upper(), *cls._names(name)))
        info = cls.model_fields[field]
        extra = info.json_schema_extra
        allowed = extra["allowed"] if isinstance(extra, dict) else str(first["msg"]).lower()
        name = field if field in given else next((n for n in cls._names(field) if n in present), cls.variable(field))
        if "Secret" in str(info.annotation) or isinstance(info.default, SecretStr):
            return f"{name} is not allowed: it must be {allowed}."
        value = ",".join(first["input"]) if isinstance(first["input"], tuple) else str(first["input"])
        return f"{name}={_without_password(value)!r} is not allowed: it must be {allowed}."


def misspelt(names: Iterable[str]) -> list[str]:
    """Return a sentence for each of `names` that has one of the kit's prefixes and means nothing, with the nearest."""
    sentences = []
    for name in sorted(names):
        known = next((known for prefix, known in Variables.prefixes.items() if name.upper().startswith(prefix)), None)
        if known is not None and name.upper() not in known:
            near = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f": did you mean {near[0]}?" if near else "."
            sentences.append(f"{name} is not a setting and does nothing{hint}")
    return sentences


def nearly_known(names: Iterable[str]) -> list[str]:
    """Return a sentence for each of `names` that has none of the kit's prefixes and looks like a setting all the same.

    For the names of an env file, which was written for the kit; an environment holds anything.
    """
    known = {name for names_of_prefix in Variables.prefixes.values() for name in names_of_prefix}
    strange = [name for name in sorted(names) if not name.upper().startswith((*Variables.prefixes,))]
    near = {name: difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.85) for name in strange}
    return [
        f"{name} is not a setting and does nothing: did you mean {found[0]}?"
        for name, found in near.items()
        if found and name.upper() not in known
    ]


def warn_of_nearly_known_names(names: Iterable[str]) -> None:
    """Log each sentence of `nearly_known`, once in a process."""
    _warn(nearly_known(names))


def warn_of_misspelt_names(names: Iterable[str]) -> None:
    """Log each sentence of `misspelt`, once in a process."""
    _warn(misspelt(names))


def _warn(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        if sentence not in _warned:
            _warned.add(sentence)
            logger.warning("%s", sentence)


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@]*@", "//***@", text)
