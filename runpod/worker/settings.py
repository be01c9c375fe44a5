"""The worker's own settings: `WORKER_*`, and the ports that RunPod's load balancer names."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import model_validator
from pydantic_settings import SettingsConfigDict

from client.variables import Variables, setting
from serving.errors import ConfigurationError

PREFIX = "WORKER_"


class WorkerSettings(Variables):
    """How the worker serves RunPod. How vLLM is started is said by `SERVE_*`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)
    error = ConfigurationError

    mode: Literal["queue", "load-balancer"] = setting(
        "queue", "queue or load-balancer", "kind of RunPod endpoint that the worker serves"
    )
    max_concurrency: int | None = setting(
        None,
        "a number of jobs, 1 or more",
        "jobs taken at the same time; unset: 30, or the plan's sequences if fewer",
        ge=1,
    )
    drain_timeout: float = setting(
        25.0, "a number of seconds", "longest wait for jobs in flight at a stop, in seconds", ge=0, allow_inf_nan=False
    )
    stall_timeout: float = setting(
        180.0,
        "a number of seconds, 1 or more",
        "longest that vLLM may compute nothing while requests run, in seconds; then the worker ends as unhealthy",
        ge=1,
        allow_inf_nan=False,
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
