"""The words of SERVE_EXTRA_ARGS, and which of vLLM's flags do not belong there, since a setting says the same."""

from __future__ import annotations

import json
import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterable

# The flag of vLLM's, what says it instead, and why the flag itself is not taken.
SAID_BY_SETTINGS = {
    "--host": "set SERVE_HOST, which asks for a key where others can reach the server",
    "--port": "set SERVE_PORT, which the kit asks whether vLLM is ready",
    "--uds": "set SERVE_HOST and SERVE_PORT: the kit talks to vLLM over TCP alone",
    "--ssl-certfile": "set SERVE_TLS_CERT, so that the kit, too, speaks HTTPS with vLLM",
    "--ssl-keyfile": "set SERVE_TLS_KEY, so that the kit, too, speaks HTTPS with vLLM",
    "--api-key": "set SERVE_API_KEY, which guards every route and stands in no argument list",
}
_WORD = re.compile(r"""(?:[^\s'"\\]|\\.|'[^']*'|"(?:\\.|[^"\\])*")+""", re.DOTALL)
_FLAG = re.compile(r"--[\w.-]+=")


def shell_words(text: str) -> tuple[str, ...]:
    """Split as a shell does, but let JSON that is not quoted keep its quotes: `--flag {"image": 2}` is two words.

    Raises ValueError for a quote that is not closed.
    """
    shell, here = [], 0
    while here < len(text):
        if text[here].isspace():
            end = here + 1
            shell.append(" ")
        elif found := _json_at(text, here):
            begin, end = found
            shell.append(text[here:begin] + shlex.quote(text[begin:end]))
        else:
            word = _WORD.match(text, here)
            end = word.end() if word else len(text)  # an open quote, which shlex will name
            shell.append(text[here:end])
        here = end
    return tuple(shlex.split("".join(shell)))


def _json_at(text: str, here: int) -> tuple[int, int] | None:
    """Return where the JSON of a word at `here` begins and ends, None if the word is none."""
    flag = _FLAG.match(text, here)
    begin = flag.end() if flag else here
    if text[begin : begin + 1] not in ("{", "["):
        return None
    try:
        _, end = json.JSONDecoder().raw_decode(text, begin)
    except (ValueError, RecursionError):
        return None
    return (begin, end) if end == len(text) or text[end].isspace() else None


def _flags_in_file(words: list[str]) -> list[str]:
    """Return the flags in the file of `--config`; none if there is no such file, which vLLM will say."""
    file = next((value for word, value in pairwise(words) if word == "--config"), None)
    if file is None:
        return []
    try:
        said = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return []
    return [f"--{key}" for key in said] if isinstance(said, dict) else []


def refused(words: Iterable[str]) -> str | None:
    """Return the sentence for the first flag that a setting says, in any spelling that vLLM takes; None if none does.

    argparse takes `--flag=value` and any beginning of a flag that is no other's; vLLM takes underscores for dashes,
    `--flag.key`, and `--config FILE` with flags in YAML.
    """
    given = list(words)
    for word in (*given, *_flags_in_file(given)):
        name = word.partition("=")[0].partition(".")[0].replace("_", "-")
        for flag, instead in SAID_BY_SETTINGS.items():
            if len(name) > len("--h") and flag.startswith(name):
                return f"SERVE_EXTRA_ARGS must not hold {flag}: {instead}."
    return None
