"""The worker's own settings: `WORKER_*`, and the ports that RunPod's load balancer names."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from serving.errors import ConfigurationError
from serving.settings import setting

PREFIX = "WORKER_"


class WorkerSettings(BaseSettings):
    """Say how the worker serves RunPod. How vLLM is started is said by `SERVE_*`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
    )

    mode: Literal["queue", "load-balancer"] = setting(
        "queue", "queue or load-balancer", "kind of RunPod endpoint that the worker serves"
    )
    max_concurrency: int | None = setting(
        None,
        "a number of jobs, 1 or more",
        "jobs taken at the same time; unset: 30, or the plan's sequences if fewer",
        ge=1,
    )
    flush_ms: float = setting(
        100.0,
        "a number of milliseconds, 0 to 1000",
        "longest wait for more events to share a post, with many streams at once, in milliseconds",
        ge=0,
        le=1000,
    )
    drain_timeout: float = setting(
        25.0, "a number of seconds", "longest wait for jobs in flight at a stop, in seconds", ge=0, allow_inf_nan=False
    )
    volume: Path = setting(
        Path("/runpod-volume"), "a folder's path", "where RunPod mounts cached models and network volumes"
    )
    port: int = setting(
        8000, "a port number, 1 to 65535", "load balancer only: port of vLLM", validation_alias="PORT", ge=1, le=65535
    )
    port_health: int = setting(
        8001,
        "a port number, 1 to 65535, and another than PORT",
        "load balancer only: port of `/ping`",
        validation_alias="PORT_HEALTH",
        ge=1,
        le=65535,
    )

    @model_validator(mode="after")
    def _keep_the_ports_apart(self) -> WorkerSettings:
        if self.mode == "load-balancer" and self.port == self.port_health:
            raise ValueError(
                f"PORT_HEALTH='{self.port_health}' is not allowed: it must be another port than PORT, "
                "since vLLM cannot answer on PORT before it is ready."
            )
        return self

    @classmethod
    def load(cls, env_file: str | Path | None = ".env") -> WorkerSettings:
        """Read the environment and `env_file`. Raises ConfigurationError: the variable, its value, what is allowed."""
        try:
            return cls(_env_file=env_file)  # type: ignore[call-arg]
        except ValidationError as error:
            raise ConfigurationError(_sentence(error)) from error
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{env_file} cannot be read: {error}.") from error


def variable(field: str) -> str:
    """Return the name of the environment variable behind a field of WorkerSettings."""
    alias = WorkerSettings.model_fields[field].validation_alias
    return alias if isinstance(alias, str) else f"{PREFIX}{field.upper()}"


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    if not first["loc"]:
        return str(first["msg"]).removeprefix("Value error, ")
    given = str(first["loc"][0])
    field = next(name for name in WorkerSettings.model_fields if given.upper() in (name.upper(), variable(name)))
    extra = WorkerSettings.model_fields[field].json_schema_extra
    allowed = extra["allowed"] if isinstance(extra, dict) else str(first["msg"])
    return f"{variable(field)}={str(first['input'])!r} is not allowed: it must be {allowed}."
