"""`python -m serving key`: make, list and remove keys with names, in the file SERVE_API_KEYS_FILE."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from serving.errors import ConfigurationError, Refused
from serving.settings import ServeSettings
from serving.vllm_side.middleware.api_keys import LARGEST_LIMIT, NAME, Key, digest, parse

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

OPERATOR = "SERVE_API_KEY"  # how the guard calls that key


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `key`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    add = actions.add_parser("add", help="make a key; it is printed once, and only its hash is kept")
    add.add_argument("name", metavar="NAME", help="whose key it is: letters, digits, and . _ @ -")
    add.add_argument("--at-once", type=int, metavar="N", help="requests that may run at the same time")
    add.add_argument("--per-minute", type=int, metavar="N", help="requests that may come in any 60 seconds")
    listing = actions.add_parser("list", help="list the names and their limits")
    listing.add_argument("--json", action="store_true", help="print for machines")
    remove = actions.add_parser("remove", help="remove a key; running servers refuse it at once")
    remove.add_argument("name", metavar="NAME")
    for action in (add, listing, remove):
        action.add_argument("--file", type=Path, metavar="FILE", help="default: SERVE_API_KEYS_FILE")


def run(args: argparse.Namespace) -> int:
    """Do one of the actions; return 0. Raises ConfigurationError or Refused."""
    file = args.file or ServeSettings.load().api_keys_file
    if file is None:
        raise ConfigurationError(
            "Where are the keys to be kept? Set SERVE_API_KEYS_FILE=keys.txt in .env, which servers read too."
        )
    if args.action == "add":
        _add(file, args.name, args.at_once, args.per_minute)
    elif args.action == "remove":
        _remove(file, args.name)
    else:
        _list(file, as_json=args.json)
    return 0


def _add(file: Path, name: str, at_once: int | None, per_minute: int | None) -> None:
    if not NAME.fullmatch(name) or name == OPERATOR:
        raise ConfigurationError(
            f"NAME {name!r} is not allowed: up to 64 letters, digits, and . _ @ -, and not {OPERATOR}."
        )
    for option, limit in (("--at-once", at_once), ("--per-minute", per_minute)):
        if limit is not None and not 0 < limit <= LARGEST_LIMIT:
            raise ConfigurationError(f"{option} {limit} is not allowed: it must be a number, 1 to {LARGEST_LIMIT}.")
    made = secrets.token_urlsafe(32)
    with _changing(file) as lines:
        if name in _names(lines):
            raise Refused(f"There is a key named {name!r} already: remove it first, or take another name.")
        lines.append(Key(name, digest(made.encode()), at_once, per_minute).line())
    print(made)
    print(
        f"Key of {name}, shown this once; its hash is in {file}. Servers that read that file know it.", file=sys.stderr
    )


def _remove(file: Path, name: str) -> None:
    with _changing(file) as lines:
        kept = [line for line in lines if name not in _names([line])]
        if len(kept) == len(lines):
            raise Refused(f"There is no key named {name!r} in {file}: `python -m serving key list` names them.")
        lines[:] = kept
    print(f"Removed the key of {name}.", file=sys.stderr)


def _list(file: Path, *, as_json: bool) -> None:
    keys, problems = parse("\n".join(_read(file)))
    if as_json:
        print(json.dumps([{"name": k.name, "at_once": k.at_once, "per_minute": k.per_minute} for k in keys]))
    else:
        width = max((len(key.name) for key in keys), default=0)
        for key in keys:
            limits = [f"{key.at_once} at once"] if key.at_once else []
            limits += [f"{key.per_minute} a minute"] if key.per_minute else []
            print(f"{key.name:<{width}}  {', '.join(limits) or 'no limit'}")
    for problem in problems:
        print(f"warning: {file}: {problem}.", file=sys.stderr)


def _names(lines: list[str]) -> set[str]:
    # A line that makes no sense otherwise still takes its name.
    return {words[0] for line in lines if (words := line.partition("#")[0].split())}


def _read(file: Path) -> list[str]:
    try:
        return file.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"SERVE_API_KEYS_FILE={str(file)!r} cannot be read: {error}.") from error


@contextlib.contextmanager
def _changing(file: Path) -> Iterator[list[str]]:
    """Let the lines be changed, by one at a time; a server never sees half a file."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ConfigurationError(f"{file.parent} cannot be used: {error.strerror}.") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        lines = _read(file)
        yield lines
        try:
            _replace(file, "".join(f"{line}\n" for line in lines))
        except OSError as error:
            raise ConfigurationError(f"{file} cannot be written: {error.strerror}.") from error
    finally:
        os.close(folder)


def _replace(file: Path, text: str) -> None:
    file = file.resolve()  # a link stays one
    written, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(written, "w", encoding="utf-8") as new:
            if file.exists():
                os.fchmod(written, file.stat().st_mode & 0o777)
            new.write(text)
            new.flush()
            os.fsync(written)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
