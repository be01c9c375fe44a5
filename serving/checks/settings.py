"""What the settings alone forbid, on any machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serving.checks.check import Check
from serving.engine.certificate import refuse_bad_pair
from serving.engine.log_file import refuse_unwritable
from serving.engine.program import engine_python
from serving.errors import ConfigurationError
from serving.model.python_environment import installed
from serving.vllm_side.middleware.api_keys import parse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from serving.hardware.gpu import Hardware
    from serving.settings import ServeSettings

# The package behind each of vLLM's extras for loading.
LOADERS = {
    "fastsafetensors": "fastsafetensors",
    "instanttensor": "instanttensor",
    "runai_streamer": "runai-model-streamer",
    "tensorizer": "tensorizer",
}


def refuse_open_server(settings: ServeSettings) -> None:
    """Raise ConfigurationError if everybody on the network could use the server without a key."""
    if not settings.loopback and settings.api_key is None and not settings.allow_open:
        raise ConfigurationError(
            f"SERVE_HOST={settings.host!r} without a key would serve everybody who can reach it: set SERVE_API_KEY, "
            "or SERVE_ALLOW_OPEN=1 if that is meant."
        )


def loader(settings: ServeSettings, hardware: Hardware) -> Iterator[Check]:
    """Check that vLLM can read weights as SERVE_LOAD_FORMAT says; nothing to check for its own ways."""
    chosen = settings.load_format
    said = f"SERVE_LOAD_FORMAT={chosen!r}"
    if chosen == "ipc_cache":
        detail = f"{said} maps weights that a running `vllm preload` holds in the GPU's memory (not tried on a GPU)"
        if hardware.gpus:
            yield Check("loader", "warn", detail, "start `vllm preload` with the same model first")
        else:
            yield Check("loader", "fail", f"{said} is for NVIDIA's GPUs alone", "unset it", needs_machine=True)
    elif chosen in LOADERS:
        package = LOADERS[chosen]
        python = engine_python(settings.engine)
        if installed(python, package.replace("-", "_")) or installed(python, package):
            yield Check("loader", "ok", f"{package} is installed")
        else:
            where = python or ".venv-engine/bin/python"
            fix = f"`.venv/bin/uv pip install --python {where} {package}`, or unset SERVE_LOAD_FORMAT"
            yield Check("loader", "fail", f"{said} needs {package} beside vLLM", fix, needs_machine=True)


def callers(settings: ServeSettings) -> Check:
    """Check who may use the server."""
    try:
        refuse_open_server(settings)
    except ConfigurationError as error:
        return Check.failed("callers", error, "SERVE_API_KEY=... make serve")
    if settings.api_keys_file is not None and (problem := _keys_problem(settings.api_keys_file)):
        return Check.failed("callers", problem, "python -m serving key add NAME")
    where = "this machine" if settings.loopback else f"whoever reaches {settings.host}"
    key = " with the key" if settings.api_key else ""
    return Check("callers", "ok", f"{where} may ask{key}")


def log_file(settings: ServeSettings) -> Iterator[Check]:
    """Check the file for vLLM's log, if there shall be one."""
    if settings.log_file is None:
        return
    try:
        refuse_unwritable(settings.log_file)
    except ConfigurationError as error:
        yield Check.failed("log file", error, "unset SERVE_LOG_FILE")
    else:
        yield Check("log file", "ok", f"vLLM's log goes to {settings.log_file}")


def certificate(settings: ServeSettings) -> Iterator[Check]:
    """Check the certificate, if there shall be one."""
    if settings.tls_cert is None and settings.tls_key is None:
        return
    try:
        refuse_bad_pair(settings)
    except ConfigurationError as error:
        yield Check.failed("HTTPS", error, "unset SERVE_TLS_CERT and SERVE_TLS_KEY for plain HTTP")
    else:
        yield Check("HTTPS", "ok", f"with the certificate {settings.tls_cert}")


def access_log(settings: ServeSettings) -> Iterator[Check]:
    """Check that the access log, if there shall be one, can be written."""
    path = settings.access_log
    if path is None:
        return
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        problem = ConfigurationError(
            f"SERVE_ACCESS_LOG={str(path)!r} cannot be written ({error.strerror}): name a file in a folder that is "
            "there and yours."
        )
        yield Check.failed("access log", problem, "unset SERVE_ACCESS_LOG to do without")
    else:
        yield Check("access log", "ok", f"a line for each request in {path}")


def _keys_problem(file: Path) -> ConfigurationError | None:
    """Return what keeps the file of keys from being read as it is meant."""
    said = f"SERVE_API_KEYS_FILE={str(file)!r}"
    try:
        _, problems = parse(file.read_text("utf-8"))
    except FileNotFoundError:
        return ConfigurationError(f"{said} is not there: `python -m serving key add NAME` makes it.")
    except (OSError, UnicodeDecodeError) as error:
        return ConfigurationError(f"{said} cannot be read: {error}.")
    if problems:
        return ConfigurationError(f"{said}: {problems[0]}. `python -m serving key add NAME` writes such lines.")
    return None
