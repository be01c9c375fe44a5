"""The command that starts vLLM: settings and plan in, argument list and environment out."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from serving.model.family import OWN_TOOL_PARSER
from serving.model.hub_cache import environment
from serving.units import GIB

if TYPE_CHECKING:
    from collections.abc import Mapping

    from serving.model.family import Family
    from serving.planning.plan import Plan
    from serving.settings import ServeSettings

VLLM_SIDE = Path(__file__).parents[1] / "vllm_side"
TEMPLATES = VLLM_SIDE / "templates"
GEMMA_TEMPLATE = TEMPLATES / "gemma3.jinja"
# vLLM loads the first, which finds the others beside it.
TOOL_PARSER = VLLM_SIDE / "tool_parser" / "python_call_parser.py"
TOOL_PARSER_FILES = (TOOL_PARSER, *(TOOL_PARSER.with_name(name) for name in ("python_calls.py", "python_literals.py")))
# Where a grammar allows white space between JSON's parts, a model may write nothing else until its tokens run out. The
# backend must be named for that: of the two that can, this one takes more schemas (Decimal, patternProperties, ...).
STRUCTURED_OUTPUTS = {"backend": "xgrammar", "disable_any_whitespace": True}
# Lets vLLM fetch the images that requests name from public addresses alone.
MEDIA_GUARD = "media_guard.MediaGuard"
# Lets a schema pass that holds a limit which the backend of structured outputs cannot enforce.
ANY_SCHEMA = "any_schema.AnySchema"
# These two are loaded as middleware and are none: they change what vLLM does, wherever it runs.
CHANGES = {name: VLLM_SIDE / "middleware" / f"{name.partition('.')[0]}.py" for name in (MEDIA_GUARD, ANY_SCHEMA)}


@dataclass(frozen=True)
class EngineCommand:
    """What starts one vLLM. `env` is added to the environment, holds the secrets, and stays out of the repr."""

    argv: tuple[str, ...]
    env: dict[str, str] = field(repr=False)
    host: str
    port: int
    served_name: str
    tls_cert: Path | None = None  # set where it serves HTTPS

    @property
    def base_url(self) -> str:
        """Return the OpenAI base URL, as seen from this machine."""
        return f"{'https' if self.tls_cert else 'http'}://{reachable(self.host)}:{self.port}/v1"


def reachable(host: str) -> str:
    """Return the host for a URL that reaches, from this machine, a server listening on `host`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 (a comparison, not a bind)
    return f"[{host}]" if ":" in host else host


def build(
    settings: ServeSettings,
    plan: Plan,
    *,
    program: Path,
    served_name: str,
    family: Family | None,
    sampling: Mapping[str, float] | None = None,
    banner: str | None = None,
    images: bool = False,
    revision: str | None = None,
    additions: tuple[str, ...] = (),
) -> EngineCommand:
    """Build the command line and the environment of vLLM.

    The plan sizes the engine; what is added here says where it listens, under which name it serves, and how it behaves;
    what goes with the model's `family` comes from its table. `sampling` is the server's default, if not the advice of
    the family's makers; `additions` are the arguments for adapters and a draft. `settings.extra_args` come last and so
    win. The API key and the Hugging Face token travel in the environment, since anybody on the machine can read an
    argument list.
    """
    args = [str(program), "serve", *plan_arguments(plan)]
    if revision is not None:
        args += ["--revision", revision]
    args += ["--served-model-name", served_name]
    args += ["--host", settings.host, "--port", str(settings.port)]
    if settings.tls_cert and settings.tls_key:
        args += ["--ssl-certfile", str(settings.tls_cert), "--ssl-keyfile", str(settings.tls_key)]
        args.append("--enable-ssl-refresh")  # a renewed certificate is shown without a restart
    args += ["--shutdown-timeout", f"{settings.shutdown_timeout:.0f}"]
    args += ["--disable-access-log-for-endpoints", "/health,/ping,/metrics"]
    # Given here since quantised checkpoints may lack the generation_config.json that says it.
    sampling = sampling or (family.sampling if family else None)
    if sampling:
        args += ["--override-generation-config", json.dumps(dict(sampling))]
    if settings.load_format != "auto":
        args += ["--load-format", settings.load_format]
    args += additions
    args += ["--structured-outputs-config", json.dumps(STRUCTURED_OUTPUTS)]
    middleware = ["requests_waiting.RequestsWaiting", ANY_SCHEMA]
    folders = ["middleware"]
    page: dict[str, str] = {}
    if settings.ui or (settings.ui is None and settings.loopback):
        middleware.append("live_page.LivePage")
        folders.append("page")
        page = {"SERVE_PAGE": "1", "SERVE_PAGE_ABOUT": json.dumps(page_about(plan, served_name, banner, images=images))}
    if settings.tools or (settings.tools is None and family is not None and family.tools_cost_nothing):
        args += ["--enable-auto-tool-choice", "--exclude-tools-when-tool-choice-none"]
        parser = (family.tool_parser if family else None) or OWN_TOOL_PARSER
        if parser == OWN_TOOL_PARSER:
            args += ["--tool-parser-plugin", str(TOOL_PARSER)]
        args += ["--tool-call-parser", parser]
    else:
        middleware.append("tools_off.ToolsOff")
    if settings.media_domains:
        args += ["--allowed-media-domains", *settings.media_domains]
    elif not settings.media_open:
        middleware.append(MEDIA_GUARD)
    if family is not None and family.reasoning_parser is not None:
        args += ["--reasoning-parser", family.reasoning_parser]
    if family is not None and family.chat_template is not None:
        template = str(TEMPLATES / family.chat_template)
        args += ["--chat-template", template, "--chat-template-content-format", "openai"]
    env = environment(settings.engine_variables)
    # CUDA itself would count the fastest GPU first, and not as NVML, and so the plan, does.
    env |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} | plan_environment(plan)
    env["VLLM_MAX_N_SEQUENCES"] = str(settings.max_n)
    env |= {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": _vllm_level(settings.log_level)}
    if MEDIA_GUARD in middleware:
        env["VLLM_MEDIA_CONNECTOR"] = "public"
    if not settings.media_open:
        env["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] = "0"
    if settings.api_key:
        middleware.append("api_key_guard.ApiKeyGuard")
        env["VLLM_API_KEY"] = settings.api_key.get_secret_value()
        if settings.api_keys_file is not None:
            env |= _named_keys(settings.api_keys_file, settings.cache_dir)
    if settings.access_log is not None:
        middleware.append("access_log.AccessLog")  # last, and so outside of the others: it sees what they refuse
        env["SERVE_ACCESS_LOG"] = str(settings.access_log.absolute())
    if settings.otlp_endpoint is not None:
        args += ["--otlp-traces-endpoint", settings.otlp_endpoint]
    for name in middleware:
        args += ["--middleware", name]
        env["PYTHONPATH"] = os.pathsep.join(str(VLLM_SIDE / folder) for folder in folders)
    env |= page
    if settings.hf_token:
        env["HF_TOKEN"] = settings.hf_token.get_secret_value()
    folder = Path(str(plan.checkpoint))
    if folder.is_absolute() or folder.is_dir():
        env["HF_HUB_OFFLINE"] = "1"
    words = (*args, *settings.extra_args)
    return EngineCommand(words, env, settings.host, settings.port, served_name, settings.tls_cert)


def length_of(plan: Plan) -> str:
    """Return how long a request may be, in words."""
    return "as long as fits" if plan.max_model_len is None else f"{plan.max_model_len:,} tokens"


def page_about(plan: Plan, served_name: str, banner: str | None, *, images: bool) -> dict[str, object]:
    """Return what the page says of the model and the plan: `banner` of a try-out model, `images` if it takes any."""
    length = next((tokens for tokens in (8192, 2048) if plan.concurrency.get(tokens) is not None), None)
    at_once = plan.concurrency[length] if length else None
    figures = [(f"{plan.kv_cache_tokens:,}", "tokens of KV cache, planned")] if plan.kv_cache_tokens else []
    if at_once is not None:
        figures.insert(0, (f"{at_once:.1f}", f"requests of {length:,} tokens at once, planned"))
    where = f"{len(plan.gpus)} GPU{'s' if len(plan.gpus) > 1 else ''}" if plan.gpus else "the CPU"
    return {
        "model": served_name,
        "summary": f"{plan.precision} on {where}, {length_of(plan)} a request",
        "banner": banner,
        "images": images,
        "limits": {"requests": at_once, "length": length, "tokens": plan.kv_cache_tokens},
        "plan": [{"value": value, "label": label} for value, label in figures],
    }


def plan_arguments(plan: Plan) -> tuple[str, ...]:
    """Return what follows `vllm serve` for a plan that fits: the checkpoint, and what sizes the engine."""
    args = [str(plan.checkpoint), "--dtype", str(plan.dtype)]
    if plan.gpus:
        args += ["--tensor-parallel-size", str(plan.tensor_parallel_size)]
    if (plan.data_parallel_size or 1) > 1:
        args += ["--data-parallel-size", str(plan.data_parallel_size)]
    args += ["--max-model-len", "auto" if plan.max_model_len is None else str(plan.max_model_len)]
    args += ["--max-num-batched-tokens", str(plan.max_num_batched_tokens)]
    args += ["--max-num-seqs", str(plan.max_num_seqs)]
    if plan.quantization is not None:
        args += ["--quantization", plan.quantization]
    if plan.kv_cache_dtype is not None:
        args += ["--kv-cache-dtype", plan.kv_cache_dtype]
        if plan.kv_skip_sliding:
            args += ["--kv-cache-dtype-skip-layers", "sliding_window"]
    if plan.gpus:
        args += ["--gpu-memory-utilization", f"{plan.gpu_memory_utilization:g}"]
    else:
        args += ["--enforce-eager", "--kv-cache-memory-bytes", str(plan.kv_cache_bytes)]
    if plan.language_model_only:
        args.append("--language-model-only")
    return tuple(args)


def plan_environment(plan: Plan) -> dict[str, str]:
    """Return what makes vLLM use the plan's GPUs where there are others, in the order in which NVML counts them.

    On the CPU engine: the size of the KV cache, which in the environment wins over the argument, but is in whole GiB.
    """
    if plan.devices:
        return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(plan.devices)}
    if plan.kv_cache_bytes is not None and plan.kv_cache_bytes % GIB == 0:
        return {"VLLM_CPU_KVCACHE_SPACE": str(plan.kv_cache_bytes // GIB)}
    return {}


def _named_keys(file: Path, cache: Path) -> dict[str, str]:
    """Return where the guard finds the keys with names, and where all that share the file count their requests."""
    file = file.absolute()
    counts = cache.absolute() / "keys" / hashlib.sha256(str(file).encode()).hexdigest()[:16]
    return {"SERVE_API_KEYS_FILE": str(file), "SERVE_API_KEYS_STATE": str(counts)}


def _vllm_level(chosen: str) -> str:
    # The kit reads phases and reasons from vLLM's INFO lines, so it never asks for less; it shows what was chosen.
    return "DEBUG" if chosen == "debug" else "INFO"
