"""The file that tells an application where the endpoint is: `.env.runpod`, for a shell and for dotenv alike."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from client.variables import EnvFileError, read_env_file
from deployment.errors import DeployError

ENV_FILE = Path(".env.runpod")


def write(base_url: str, api_key: str, model: str, path: Path = ENV_FILE) -> None:
    """Write the three variables that point the client at the endpoint; all or nothing, readable by the owner alone.

    The file appears under its name in one step: a link that lies there is replaced and not followed, and nobody ever
    reads a half. Raises DeployError.
    """
    lines = {"LLM_BASE_URL": base_url, "LLM_API_KEY": api_key, "LLM_MODEL": model}
    text = "".join(f"{name}={_quoted(name, value)}\n" for name, value in lines.items())
    try:
        handle, draft = tempfile.mkstemp(prefix=path.name, dir=path.absolute().parent)  # mode 600 from the start
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            Path(draft).replace(path)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise DeployError(f"The endpoint is ready, but {path} cannot be written: {error.strerror}.") from error


def remove(base_urls: set[str], path: Path = ENV_FILE) -> bool:
    """Remove the file if it points at one of these endpoints; return whether it did. A link is left alone."""
    with contextlib.suppress(OSError, EnvFileError):
        if not path.is_symlink() and read_env_file(path).get("LLM_BASE_URL") in base_urls:
            path.unlink()
            return True
    return False


def _quoted(name: str, value: str) -> str:
    """Return a value in single quotes, in which neither a shell nor dotenv expands anything."""
    if "'" in value or "\\" in value or not value.isprintable():
        raise DeployError(f"{name} cannot be written to a file that a shell reads: it has a quote or the like in it.")
    return f"'{value}'"
