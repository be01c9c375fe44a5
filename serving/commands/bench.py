"""`python -m serving bench`: how many users the server carries that the LLM_* settings name, and what a token costs."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from client import LLMClient
from client.errors import ConfigurationError as ClientConfigurationError
from client.errors import LLMError, ModelNotFoundError
from client.settings import ClientSettings, parse_headers
from client.terminal import sanitize_line
from serving.bench import result as results
from serving.bench.goal import Goal, read_seconds, seconds_text
from serving.bench.picture import svg
from serving.bench.run import LoadTest
from serving.bench.table import show, show_two
from serving.bench.target import Shape, Target
from serving.bench.watch import ServerWatch
from serving.bench.web_page import page
from serving.engine.program import ROOT
from serving.errors import ConfigurationError, Refused
from serving.hardware.parse import parse_gpus
from serving.hardware.rented import usd_per_hour

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from rich.status import Status

    from serving.bench.level import Level
    from serving.bench.result import Result

FOLDER = Path("bench-results")
MOST_USERS = 256
READY_S = 900.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bench`."""
    parser.add_argument("--users", metavar="N,N,...", help=f"users at once (default: 1, 2, 4, ... {MOST_USERS})")
    parser.add_argument("--rates", metavar="R,R,...", help="requests a second in place of users, whoever waits")
    parser.add_argument("--prompt", type=int, default=256, metavar="TOKENS", help="length of a prompt (default 256)")
    parser.add_argument(
        "--answer", default="128", metavar="TOKENS", help="length of an answer, or 64-256 for any between (default 128)"
    )
    parser.add_argument(
        "--first-token", default="1s", metavar="TIME", help="goal: longest wait for it, like 500ms (default 1s)"
    )
    parser.add_argument(
        "--speed", type=float, default=10.0, metavar="TOKENS", help="goal: least tokens a second for each (default 10)"
    )
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="least time to measure each load (default 20 seconds)"
    )
    parser.add_argument(
        "--price", metavar="USD|GPUS", help="the server's price an hour, or its GPUs for RunPod's: '2x NVIDIA L40S'"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON; all else goes to stderr")
    parser.add_argument(
        "--save",
        type=Path,
        nargs="?",
        const=FOLDER,
        metavar="FOLDER",
        help=f"keep JSON, picture and page, named by time and commit (default folder {FOLDER})",
    )
    parser.add_argument(
        "--compare",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="an earlier JSON to compare with; two: no load is run",
    )


def run(args: argparse.Namespace) -> int:
    """Run the load test and show it; return 0. Raises ConfigurationError, or Refused if the server does not answer."""
    console = Console(stderr=args.json, highlight=False)
    old = [results.read(path) for path in args.compare or []]
    if len(old) > 2:
        raise ConfigurationError(
            "--compare takes one file, to compare this run with, or two to compare with each other."
        )
    if len(old) == 2:
        show_two(old[0], old[1], console)
        return 0
    found, broken_off = _measured(args, Console(stderr=True, highlight=False))
    if not found.levels:
        return 130
    if args.json:
        sys.stdout.write(results.to_json(found).decode())
    else:
        show(found, console)
    if old:
        show_two(old[0], found, console)
    if args.save is not None:
        _keep(found, args.save, console)
    return 130 if broken_off else 0


def _measured(args: argparse.Namespace, console: Console) -> tuple[Result, bool]:
    """Return what was measured, and whether Ctrl-C ended it early."""
    kind, loads = _loads(args)
    goal = Goal(_first_token(args.first_token), _positive(args.speed, "--speed"))
    shape = Shape(int(_positive(args.prompt, "--prompt")), _answer(args.answer))
    try:
        client = LLMClient(max_retries=0, max_concurrency=None)
        settings = ClientSettings.load()
    except ClientConfigurationError as error:
        raise ConfigurationError(str(error)) from error
    if settings.max_concurrency is not None:
        raise ConfigurationError("LLM_MAX_CONCURRENCY would hold the load down: unset it for this command.")
    if settings.fallback_base_url is not None:
        raise ConfigurationError("LLM_FALLBACK_BASE_URL would answer for the server: unset it for this command.")
    key = settings.api_key.get_secret_value()
    headers = {"Authorization": f"Bearer {key}", **parse_headers(settings.headers)}
    status = console.status("warming up") if console.is_terminal else nullcontext()
    holder: list[LoadTest] = []

    async def measure(shown: Status | None) -> Result:
        def progress(load: float, elapsed: float, answers: int) -> None:
            if shown is not None:
                shown.update(f"{test.result().amount(load)}: {elapsed:.0f} s, {answers} answers")

        def done(level: Level) -> None:
            console.print(Text(_line(test, level)))

        async with client, ServerWatch(settings.base_url, headers) as server:
            await _settle_model(client, settings, console)
            test = LoadTest(
                Target(client, shape),
                goal,
                server,
                kind=kind,
                loads=loads,
                most=MOST_USERS,
                least_s=_positive(args.seconds, "--seconds"),
                usd_per_hour=_price(args.price),
                commit=_commit(),
                on_progress=progress,
                on_level=done,
            )
            holder.append(test)
            return await test.run()

    try:
        with status as shown:
            return asyncio.run(measure(shown)), False
    except LLMError as error:
        raise Refused(f"The load test cannot begin: {error}") from error
    except KeyboardInterrupt:
        if not holder:
            raise
        return holder[0].result(), True


async def _settle_model(client: LLMClient, settings: ClientSettings, console: Console) -> None:
    """Wait for the server, and take its only model where LLM_MODEL names none."""
    try:
        await client.wait_until_ready(READY_S, lambda line: console.print(Text(sanitize_line(line))))
    except ModelNotFoundError:
        models = await client.models()
        if settings.model is not None or len(models) != 1:
            raise
        client.model = models[0]


def _line(test: LoadTest, level: Level) -> str:
    first = "-" if level.first_token is None else seconds_text(level.first_token.median)
    speed = "-" if level.speed is None else f"{level.speed.median:.1f}"
    missed = test.goal.missed(level)
    return (
        f"{test.result().amount(level.load)}: {level.tokens_per_second:,.1f} tokens/s, first token {first}, "
        f"{speed} tokens/s each" + (f"; missed: {missed}" if missed else "")
    )


def _loads(args: argparse.Namespace) -> tuple[results.Kind, list[float] | None]:
    if args.users is not None and args.rates is not None:
        raise ConfigurationError("--users and --rates exclude each other: give one of them.")
    if args.rates is not None:
        return "rate", _numbers(args.rates, "--rates", "requests a second", r"\d+(?:\.\d*)?|\.\d+")
    return "users", None if args.users is None else _numbers(args.users, "--users", "users", r"\d+")


def _numbers(text: str, option: str, what: str, pattern: str) -> list[float]:
    words = text.split(",")
    if not all(re.fullmatch(pattern, word.strip()) and float(word) > 0 for word in words):
        raise ConfigurationError(f"{option}={text!r} is not allowed: it must be numbers of {what}, like 1,2,4.")
    return sorted({float(word) for word in words})


def _first_token(text: str) -> float:
    try:
        return read_seconds(text)
    except ValueError as error:
        raise ConfigurationError(f"--first-token={text!r} is not allowed: it must be a time like 500ms.") from error


def _positive(value: float, option: str) -> float:
    if not 0 < value < float("inf"):
        raise ConfigurationError(f"{option}={value:g} is not allowed: it must be more than 0.")
    return value


def _answer(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    least, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 2 <= least <= most:
        raise ConfigurationError(f"--answer={text!r} is not allowed: it must be 2 tokens or more, or like 64-256.")
    return least, most


def _price(text: str | None) -> float | None:
    if text is None:
        return None
    if re.fullmatch(r"\$?(\d+(?:\.\d*)?|\.\d+)", text.strip()):
        return float(text.strip().lstrip("$"))
    price = usd_per_hour(parse_gpus(text, "--price"))
    if price is None:
        raise ConfigurationError(
            f"--price={text!r} is not allowed: RunPod's price of it is not known; give USD an hour."
        )
    return price


def _commit() -> str | None:
    """Return the checkout's commit, with a mark if it was changed since."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _keep(result: Result, folder: Path, console: Console) -> None:
    moment = datetime.fromisoformat(result.made).astimezone(UTC).strftime("%Y%m%dT%H%M%S")
    stem = f"{moment}-{result.commit}" if result.commit else moment
    made: Sequence[tuple[str, str]] = (
        (f"{stem}.json", results.to_json(result).decode()),
        (f"{stem}.svg", svg(result)),
        (f"{stem}.html", page(result)),
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in made:
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"--save {folder} cannot be written: {error.strerror}.") from error
    console.print(Text(f"Kept: {', '.join(str(folder / name) for name, _ in made)}"))
