"""What to deploy and how: `DEPLOY_*`, three `RUNPOD_*`, and what the worker gets, read and checked once.

`DEPLOY_` and not `RUNPOD_`, since the platform sets `RUNPOD_*` itself inside a worker.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from client.settings import DEFAULT_MODEL
from client.variables import Variables, read_env_file, setting
from serving import settings as serving_settings
from serving.errors import ConfigurationError
from serving.settings import ENGINE_PREFIXES, SAID_BY_SETTINGS, ServeSettings, is_loopback
from worker.settings import WorkerSettings

logger = logging.getLogger(__name__)

PREFIX = "DEPLOY_"
WORKER_PREFIXES = ("SERVE_", "WORKER_")
# These say where things are on this machine and would be wrong on another, or are said by a setting. The engine's own
# variables travel if .env sets them: a shell's may mean this machine.
LOCAL_VARIABLES = (
    frozenset({"SERVE_ENGINE", "SERVE_GPUS", "SERVE_HOST", "SERVE_PORT", "SERVE_LOG_FILE", "SERVE_CACHE_DIR"})
    | serving_settings.LOCAL_VARIABLES
    | SAID_BY_SETTINGS
)


def _words(value: object) -> object:
    return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value


def _words_or_auto(value: object) -> object:
    return "auto" if isinstance(value, str) and value.strip().lower() == "auto" else _words(value)


def _choice(value: object) -> object:
    return value.strip().lower().replace("_", "-") if isinstance(value, str) else value


def _flashboot(value: object) -> object:
    word = str(_choice(value))
    same = {"1": "on", "true": "on", "yes": "on", "flashboot": "on", "0": "off", "false": "off", "no": "off"}
    return {**same, "priority-flashboot": "priority"}.get(word, word)


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]
PoolWords = Annotated[tuple[str, ...] | Literal["auto"], NoDecode, BeforeValidator(_words_or_auto)]


def _sendable_key(key: SecretStr) -> SecretStr:
    value = key.get_secret_value()
    if not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("not sendable")
    return key


Key = Annotated[SecretStr, AfterValidator(_sendable_key)]


class DeploySettings(Variables):
    """What the endpoint on RunPod should be. `None` and "auto" mean: let the plan choose."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)
    error = ConfigurationError

    api_key: Key | None = setting(
        None,
        "a key of your RunPod account, printable ASCII without spaces",
        "key of your RunPod account; `plan` works without it",
        validation_alias="RUNPOD_API_KEY",
    )
    client_key: Key | None = setting(
        None,
        "a key of your RunPod account, printable ASCII without spaces",
        "the key that `.env.runpod` gives to your application: one that is restricted to this endpoint; unset: "
        "`RUNPOD_API_KEY`, which may change the whole account",
    )
    api_url: str = setting(
        "https://api.runpod.io/v2",
        "an https:// address (http:// only on this machine)",
        "address of RunPod's REST API",
        validation_alias="RUNPOD_API_URL",
    )
    graphql_url: str = setting(
        "https://api.runpod.io/graphql",
        "an https:// address (http:// only on this machine)",
        "address of RunPod's GraphQL API; used for cached models alone",
        validation_alias="RUNPOD_GRAPHQL_URL",
    )
    name: str = setting(
        "gemma3-27b", "a name", "name of the endpoint; `up` finds it by this name", pattern=r"^\S(.*\S)?$"
    )
    image: str | None = setting(
        None,
        "an image's name with a tag or digest",
        "the worker's image, as `make push` pushed it; pin a tag or a digest",
        pattern=r"^\S+$",
    )
    mode: Annotated[Literal["queue", "load-balancer"], BeforeValidator(_choice)] = setting(
        "queue", "queue or load-balancer", "`queue` (jobs wait for a worker) or `load-balancer` (plain HTTP)"
    )
    gpu_pools: PoolWords = setting(
        "auto",
        "auto or names of GPU pools, comma-separated",
        "GPU pools, comma-separated, in order of preference; `auto`: up to three that fit, cheapest first",
        min_length=1,
    )
    gpu_count: int = setting(1, "a number of GPUs, 1 or more", "GPUs per worker", ge=1)
    workers_min: int = setting(
        0, "a number of workers, 0 or more", "workers that always run, and always cost; 0: scale to zero", ge=0
    )
    workers_max: int = setting(
        3, "a number of workers, 1 or more", "most workers at once: with the price, the bound on what it can cost", ge=1
    )
    idle_timeout: int = setting(
        300,
        "a number of seconds, 1 to 3600",
        "seconds that a worker waits for more work before it stops",
        ge=1,
        le=3600,
    )
    scaler: Annotated[Literal["auto", "queue-delay", "request-count"], BeforeValidator(_choice)] = setting(
        "auto",
        "auto, queue-delay or request-count",
        "when to add workers; `auto`: `queue-delay` for a queue, `request-count` for a load balancer",
    )
    scaler_value: float | None = setting(
        None,
        "a number, 0.5 or more",
        "seconds of waiting, or requests per worker; unset: 4 seconds, or what a worker runs at once",
        ge=0.5,
        allow_inf_nan=False,
    )
    flashboot: Annotated[Literal["on", "off", "priority"], BeforeValidator(_flashboot)] = setting(
        "on", "on, off or priority", "keep a stopped worker's state for a faster start; RunPod's default is off"
    )
    execution_timeout: int = setting(
        600, "a number of seconds, 5 to 604800", "longest job, in seconds", ge=5, le=604_800
    )
    init_timeout: int = setting(
        1800,
        "a number of seconds, 60 or more",
        "longest start of a worker, in seconds; RunPod's default of 420 is too short for 27B",
        ge=60,
    )
    data_centers: Words = setting((), "names of data centres, comma-separated", "data centres; unset: any")
    network_volume: Words = setting(
        (), "ids of network volumes, comma-separated", "ids of network volumes for the weights"
    )
    disk_gb: int | Literal["auto"] = setting(
        "auto", "auto or a size in GB, 1 or more", "container disk in GB; `auto`: the weights and room to work"
    )
    registry: str | None = setting(
        None, "the id of a registry credential", "id of RunPod's credential for a private image"
    )
    cached_model: bool = setting(
        False, "0 or 1", "`1` lets RunPod place the weights on the host before the worker starts (not billed)"
    )
    hf_secret: str | None = setting(
        None,
        "the name of a RunPod secret",
        "name of the RunPod secret that holds the Hugging Face token; unset: `HF_TOKEN` travels as plain text",
        pattern=r"^[\w-]+$",
    )

    @model_validator(mode="after")
    def _make_sense(self) -> DeploySettings:
        for variable, url in (("RUNPOD_API_URL", self.api_url), ("RUNPOD_GRAPHQL_URL", self.graphql_url)):
            if not _sendable(url):
                raise ValueError(
                    f"{variable}={url!r} is not allowed: it must be an https:// address (http:// only on this machine)."
                )
        if self.workers_min > self.workers_max:
            raise ValueError(
                f"DEPLOY_WORKERS_MIN={self.workers_min} is not allowed: it must be at most "
                f"DEPLOY_WORKERS_MAX ({self.workers_max})."
            )
        if self.disk_gb != "auto" and self.disk_gb < 1:
            raise ValueError(
                f"DEPLOY_DISK_GB='{self.disk_gb}' is not allowed: it must be auto or a size in GB, 1 or more."
            )
        if self.mode == "load-balancer" and self.scaler == "queue-delay":
            raise ValueError(
                "DEPLOY_SCALER='queue-delay' is not allowed with DEPLOY_MODE=load-balancer: "
                "it must be auto or request-count."
            )
        value = self.scaler_value
        if value is not None and self.scales_by_requests and (value < 1 or value != int(value)):
            raise ValueError(
                f"DEPLOY_SCALER_VALUE='{value:g}' is not allowed: it must be a whole number of requests, 1 or more."
            )
        return self

    @property
    def scales_by_requests(self) -> bool:
        """Whether workers are added by the number of requests (else by the queue's delay)."""
        return self.scaler == "request-count" or self.mode == "load-balancer"

    @property
    def idle_applies(self) -> bool:
        """Whether RunPod takes an idle timeout: not for a queue that scales by requests."""
        return self.mode == "load-balancer" or not self.scales_by_requests


@dataclass(frozen=True)
class DeployConfig:
    """Everything that was configured: the endpoint, the server in it, and what the worker is told.

    `worker_variables` are `SERVE_*` and `WORKER_*` as they were set, and the engine's variables of the env file, less
    what belongs to this machine.
    """

    deploy: DeploySettings
    serve: ServeSettings
    worker_variables: dict[str, str]

    @property
    def model(self) -> str:
        """Return the model to serve: never the try-out model that a machine without a GPU falls back to."""
        return self.serve.model or DEFAULT_MODEL

    @property
    def served_name(self) -> str:
        """Return the name that requests must use."""
        return self.serve.served_model_name or self.model

    def secrets(self) -> tuple[str, ...]:
        """Return every value that must never be shown."""
        deploy, serve = self.deploy, self.serve
        fields = (deploy.api_key, deploy.client_key, serve.api_key, serve.llm_api_key, serve.hf_token)
        return tuple(field.get_secret_value() for field in fields if field is not None)


def load(env_file: str | Path = ".env") -> DeployConfig:
    """Read the environment and `env_file` (which the environment wins over).

    Raises ConfigurationError with one sentence that names the variable, its value and what is allowed.
    """
    serve = ServeSettings.load(env_file)
    deploy = DeploySettings.load(env_file)
    WorkerSettings.load(env_file)  # a mistake shows here, and not in a container's log
    file = {name.upper() for name in read_env_file(env_file)}
    given = {name.upper(): value for name, value in {**read_env_file(env_file), **os.environ}.items() if value}
    worker_variables = {
        name: value
        for name, value in sorted(given.items())
        if (name.startswith(WORKER_PREFIXES) or (name.startswith(ENGINE_PREFIXES) and name in file))
        and name not in LOCAL_VARIABLES
    }
    if serve.model and Path(serve.model).expanduser().is_dir():
        raise ConfigurationError(
            f"SERVE_MODEL={serve.model!r} is a folder of this machine, which a worker cannot reach: "
            "it must be a model's name on Hugging Face."
        )
    return DeployConfig(deploy, serve, worker_variables)


def _sendable(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    if not url.isascii() or not url.isprintable() or " " in url:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host)))
