"""The settings of the serving side: `SERVE_*` from the environment and `.env`, read and checked once.

The client's `LLM_*` variables are read here too where both sides must agree, so that one `.env` drives both:
the model's name, the port and the key.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from client.settings import DEFAULT_MODEL
from client.variables import Variables, read_env_file, setting, warn_of_nearly_known_names
from serving import extra_args
from serving.errors import ConfigurationError

PREFIX = "SERVE_"
DEFAULT_PORT = 8000
DEFAULT_CONTEXT = 32_768
STARTUP_S = 3600.0
# Variables of vLLM and its libraries. Those of the env file reach vLLM too, and a worker that is deployed.
ENGINE_PREFIXES = ("VLLM_", "HF_", "HUGGINGFACE_", "HUGGING_FACE_", "TRANSFORMERS_", "NCCL_")
# Of these the kit has a setting, which says them to vLLM.
SAID_BY_SETTINGS = frozenset({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "VLLM_API_KEY", "VLLM_CPU_KVCACHE_SPACE"})
# These say where things are on this machine, and would be wrong on another.
LOCAL_VARIABLES = frozenset(
    {"HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_ASSETS_CACHE", "HUGGINGFACE_ASSETS_CACHE"}
    | {"HF_XET_CACHE", "HF_MODULES_CACHE", "TRANSFORMERS_CACHE", "XDG_CACHE_HOME", "HF_TOKEN_PATH"}
    | {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_OIDC_ID_TOKEN", "VLLM_CACHE_ROOT", "VLLM_CONFIG_ROOT"}
    | {"VLLM_ASSETS_CACHE", "VLLM_TARGET_DEVICE", "VLLM_CPU_OMP_THREADS_BIND"}
)


def _shell_words(value: object) -> object:
    return extra_args.shell_words(value) if isinstance(value, str) else value


def _comma_words(value: object) -> object:
    return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value


ShellWords = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_shell_words)]
HostName = Annotated[str, Field(pattern=r"^[\w.-]+$"), AfterValidator(str.lower)]
HostNames = Annotated[tuple[HostName, ...], NoDecode, BeforeValidator(_comma_words)]
CommaWords = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_comma_words)]
PositiveInt = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
UserPath = Annotated[Path, AfterValidator(Path.expanduser)]


class ServeSettings(Variables):
    """Say how to serve. `None` and "auto" mean: let the plan choose."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)
    error = ConfigurationError

    model: str | None = setting(
        None,
        "a model's name on Hugging Face or a folder",
        f"model to serve: a Hugging Face name, a folder, `tryout-smollm2-135m` or `tryout-gemma-3-270m`; "
        f"unset: `{DEFAULT_MODEL}`, or the try-out model where there is no GPU",
    )
    revision: str | None = setting(
        None,
        "a commit, a tag or a branch",
        "commit, tag or branch of the model on Hugging Face; unset: the commit that the kit knows, else `main`",
        pattern=r"^[\w./-]+$",
    )
    served_model_name: str | None = setting(
        None,
        "a name without spaces",
        "name that requests use; unset: `LLM_MODEL`, else the model",
        validation_alias=AliasChoices("SERVE_SERVED_MODEL_NAME", "LLM_MODEL"),
        pattern=r"^\S+$",
    )
    host: str = setting("127.0.0.1", "an address to listen on", "address to listen on", pattern=r"^[\w.:%-]+$")
    port: int = setting(
        DEFAULT_PORT,
        "a port number, 1 to 65535",
        "port; unset: that of a loopback `LLM_BASE_URL`, else 8000",
        ge=1,
        le=65535,
    )
    api_key: SecretStr | None = setting(
        None,
        "printable ASCII without spaces",
        "key that callers must send; unset: `VLLM_API_KEY`, then `LLM_API_KEY` unless that is `EMPTY`",
        validation_alias=AliasChoices("SERVE_API_KEY", "VLLM_API_KEY"),
    )
    api_keys_file: UserPath | None = setting(
        None,
        "a file's path",
        "file of keys with names, each with its limits, made by `python -m serving key add NAME`; read again when it "
        "changes",
    )
    allow_open: bool = setting(
        False, "0 or 1", "`1` allows an address other than loopback without a key (everybody who reaches it may use it)"
    )
    tls_cert: UserPath | None = setting(
        None, "a file's path", "certificate, with those that vouch for it, in PEM form: it is HTTPS then"
    )
    tls_key: UserPath | None = setting(None, "a file's path", "private key of the certificate, in PEM form")
    context: int = setting(
        DEFAULT_CONTEXT, "a number of tokens, 1 or more", "context to plan for, in tokens per request", ge=1
    )
    precision: Literal["auto", "bf16", "fp8", "int4"] = setting(
        "auto", "auto, bf16, fp8 or int4", "precision of the weights; `auto`: the best that fits the context"
    )
    quantization: Literal["fp8"] | None = setting(
        None, "fp8", "`fp8` quantises plain weights as they are loaded: half the memory, without another checkpoint"
    )
    kv_cache_dtype: Literal["auto", "fp8"] = setting(
        "auto",
        "auto or fp8",
        "type of the KV cache; `fp8` holds about twice as much, and of a model with sliding layers leaves those as "
        "they are",
    )
    lora: CommaWords = setting(
        (),
        "name=folder, comma-separated",
        "adapters (LoRA) that are served beside the model, each under its own name: `name=folder`, comma-separated",
    )
    speculate: Literal["off", "ngram", "mtp", "eagle3"] = setting(
        "off",
        "off, ngram, mtp or eagle3",
        "guess tokens ahead: `ngram` from the text itself (any model), `mtp` or `eagle3` with a draft (Gemma 4)",
    )
    load_format: Literal[
        "auto", "safetensors", "fastsafetensors", "instanttensor", "runai_streamer", "tensorizer", "ipc_cache"
    ] = setting(
        "auto",
        "auto, safetensors, fastsafetensors, instanttensor, runai_streamer, tensorizer or ipc_cache",
        "how vLLM reads the weights; all but `auto` and `safetensors` want vLLM's extra of that name, `ipc_cache` a "
        "running `vllm preload` (neither was tried on a GPU)",
    )
    plan: Literal["auto", "off"] = setting(
        "auto", "auto or off", "`off` starts vLLM without a plan: vLLM finds out by itself what fits, or does not start"
    )
    max_model_len: PositiveInt | Literal["auto"] = setting(
        "auto",
        "auto or a number of tokens, 1 or more",
        "context length, in tokens per request; `auto`: the largest that fits",
    )
    gpu_memory_utilization: float | None = setting(
        None,
        "a share, more than 0 and at most 1",
        "share of each GPU's memory that vLLM may take; unset: the plan's",
        gt=0,
        le=1,
    )
    tensor_parallel_size: PositiveInt | Literal["auto"] = setting(
        "auto", "auto or a number of GPUs, 1 or more", "GPUs that share one copy of the model"
    )
    max_num_seqs: int | None = setting(
        None, "a number, 1 or more", "requests that run at the same time; unset: the plan's", ge=1
    )
    max_num_batched_tokens: int | None = setting(
        None,
        "a number of tokens, 1 or more",
        "tokens that one step computes; a memory knob with Gemma 3; unset: the plan's",
        ge=1,
    )
    dtype: Literal["auto", "bfloat16", "float32", "float16"] = setting(
        "auto", "auto, bfloat16, float32 or float16", "type to compute in; `auto`: bfloat16 on a GPU, float32 without"
    )
    text_only: bool = setting(False, "0 or 1", "`1` leaves the vision tower out: less memory, no images")
    tools: bool | None = setting(
        None,
        "0 or 1",
        "`1` lets requests bring tools; unset: `1` for Gemma 3, where a request without any is not touched, else `0`",
    )
    media_domains: HostNames = setting(
        (),
        "names of hosts, comma-separated",
        "hosts that images may be fetched from by URL, comma-separated; unset: any that is not this machine's network",
    )
    media_open: bool = setting(
        False,
        "0 or 1",
        "`1` lets the URL of an image lead anywhere: to loopback and private addresses, and through redirects",
    )
    max_n: int = setting(
        128,
        "a number of answers, 1 or more",
        "most answers to one request (its `n`), each of which takes room in the KV cache",
        validation_alias=AliasChoices("SERVE_MAX_N", "VLLM_MAX_N_SEQUENCES"),
        ge=1,
    )
    kv_cache_space_gib: float | None = setting(
        None,
        "a size in GiB, more than 0",
        "CPU engine only: memory for the KV cache, in GiB; unset: 1",
        # vLLM's own name for it would win over the command line, so it is taken as said.
        validation_alias=AliasChoices("SERVE_KV_CACHE_SPACE_GIB", "VLLM_CPU_KVCACHE_SPACE"),
        gt=0,
        allow_inf_nan=False,
    )
    startup_timeout: Seconds = setting(
        STARTUP_S, "a number of seconds", "longest start, the model's download included, in seconds"
    )
    shutdown_timeout: Seconds = setting(
        30.0, "a number of seconds", "longest wait for running requests at a stop, in seconds"
    )
    stall_timeout: float = setting(
        180.0,
        "a number of seconds, 1 or more",
        "longest that vLLM may compute nothing while requests run, in seconds; then it is ended and started again",
        ge=1,
        allow_inf_nan=False,
    )
    ui: bool | None = setting(
        None, "0 or 1", "the page at the server's address, to try and watch it; unset: on loopback alone"
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "error", "debug, info, warning or error", "which of vLLM's log lines are shown"
    )
    log_file: UserPath | None = setting(None, "a file's path", "file that gets all of vLLM's log")
    access_log: UserPath | None = setting(
        None, "a file's path", "file that gets a line of JSON for each request: who, what, how long, and nobody's text"
    )
    otlp_endpoint: str | None = setting(
        None,
        "an http:// or https:// address, such as http://127.0.0.1:4317",
        "where vLLM sends a trace of each request (OpenTelemetry's OTLP)",
        pattern=r"^https?://[\w.\[\]:-]+(/\S*)?$",
    )
    engine: UserPath | None = setting(
        None, "the path of a `vllm` program", "the `vllm` program; unset: the one in `.venv-engine`, then `PATH`"
    )
    gpus: str | None = setting(
        None,
        "like '2x NVIDIA L40S', '1x 79.2GiB sm90' or '1x 79.2GiB sm90 free=40GiB', comma-separated",
        "stands in for what the driver would report, to plan elsewhere: `2x NVIDIA L40S`, `1x 79.2GiB sm90 free=40GiB`",
    )
    cache_dir: UserPath = setting(
        Path("~/.cache/gemma-vllm-kit").expanduser(), "a folder's path", "where the converted try-out models are kept"
    )
    extra_args: ShellWords = setting(
        (), "arguments of `vllm serve`, quoted as in a shell", "appended to `vllm serve` as they are, and win"
    )
    hf_token: SecretStr | None = setting(
        None,
        "a Hugging Face token",
        "Hugging Face token, for gated models; unset: the one that `hf auth login` has left",
        validation_alias=AliasChoices("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
    )
    # Those of ENGINE_PREFIXES that the env file sets and the environment does not, for vLLM; `load` finds them.
    engine_variables: dict[str, str] = Field(default_factory=dict, exclude=True, repr=False)
    # What the client is told, where both sides must agree.
    llm_base_url: str | None = Field(None, validation_alias="LLM_BASE_URL", exclude=True, repr=False)
    llm_model: str | None = Field(None, validation_alias="LLM_MODEL", exclude=True, repr=False)
    llm_api_key: SecretStr | None = Field(None, validation_alias="LLM_API_KEY", exclude=True, repr=False)

    @classmethod
    def load(cls, env_file: str | Path | None = ".env", **given: Any) -> Self:
        """Read the settings as all of the kit's are, and with them the engine's own variables in `env_file`."""
        settings = super().load(env_file, **given)
        variables = {
            name: value
            for name, value in read_env_file(env_file).items()
            if value and (name.startswith(ENGINE_PREFIXES) or name in LOCAL_VARIABLES)
            if name not in SAID_BY_SETTINGS and not os.environ.get(name)
        }
        warn_of_nearly_known_names(read_env_file(env_file))
        return settings.model_copy(update={"engine_variables": variables})

    @model_validator(mode="before")
    @classmethod
    def _agree_with_the_client(cls, values: dict[str, Any]) -> dict[str, Any]:
        port = _loopback_port(values.get("LLM_BASE_URL") or values.get("llm_base_url"))
        if port is not None and values.get("port") is None:
            values = {**values, "port": port}
        key = values.get("LLM_API_KEY") or values.get("llm_api_key")
        if key not in (None, "", "EMPTY") and values.get("api_key") is None:
            values = {**values, "api_key": key}
        return values

    @model_validator(mode="after")
    def _have_a_key_of_its_own(self) -> ServeSettings:
        if self.api_keys_file is not None and self.api_key is None:
            # The supervisor asks the server questions too, and the file holds no key that could be sent.
            object.__setattr__(self, "api_key", SecretStr(secrets.token_urlsafe(32)))
        return self

    @model_validator(mode="after")
    def _keep_the_key_sendable(self) -> ServeSettings:
        key = self.api_key.get_secret_value() if self.api_key else "x"
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError("SERVE_API_KEY (or LLM_API_KEY) must be printable ASCII without spaces.")
        return self

    @model_validator(mode="after")
    def _leave_to_settings_what_they_say(self) -> ServeSettings:
        if sentence := extra_args.refused(self.extra_args):
            raise ValueError(sentence)
        return self

    @property
    def own_key(self) -> bool:
        """Whether `api_key` is none that a caller has, but one made for this run beside the file of keys."""
        return self.api_keys_file is not None and "api_key" not in self.model_fields_set

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether `host` (a name or an address) is this machine's loopback."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _loopback_port(url: object) -> int | None:
    if not isinstance(url, str):
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None  # the client refuses it, with its own sentence
    if not parts.hostname or not is_loopback(parts.hostname):
        return None
    return port or (443 if parts.scheme == "https" else 80)
