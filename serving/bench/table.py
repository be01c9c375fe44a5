"""A result as columns and rows of text, for the terminal and for the page; and two results side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from client.terminal import sanitize_line
from serving.bench.goal import seconds_text

if TYPE_CHECKING:
    from rich.console import Console

    from serving.bench.level import Level, Spread
    from serving.bench.result import Result


def columns(result: Result) -> list[str]:
    """Return the heads of the columns; a column that nothing can be said in is left out."""
    found = ["users" if result.kind == "users" else "requests/s", "answers", "tokens/s", "first token", "19 of 20"]
    found += ["tokens/s each", "19 of 20"]
    if result.usd_per_hour is not None:
        found.append("$/M tokens")
    if any(level.server for level in result.levels):
        found += ["KV cache", "waiting"]
    if any(level.errors for level in result.levels):
        found.append("errors")
    return [*found, "goal"]


def row(result: Result, level: Level) -> list[str]:
    """Return the cells of one load."""
    cells = [f"{level.load:g}", str(level.requests - sum(level.errors.values())), f"{level.tokens_per_second:,.1f}"]
    cells += _pair(level.first_token, times=True) + _pair(level.speed, times=False)
    if result.usd_per_hour is not None:
        price = result.usd_per_million(level)
        cells.append("-" if price is None else f"{price:,.2f}")
    if any(other.server for other in result.levels):
        kv, waiting = (level.server.kv_cache, level.server.waiting) if level.server else (None, None)
        cells += ["-" if kv is None else f"{kv:.0%}", "-" if waiting is None else f"{waiting:.0f}"]
    if any(other.errors for other in result.levels):
        cells.append(", ".join(f"{count} {name}" for name, count in sorted(level.errors.items())) or "-")
    return [*cells, "missed" if result.goal.missed(level) else "kept"]


def _pair(spread: Spread | None, *, times: bool) -> list[str]:
    if spread is None:
        return ["-", "-"]
    return [seconds_text(value) if times else f"{value:.1f}" for value in (spread.median, spread.tail)]


def show(result: Result, console: Console) -> None:
    """Print a result."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)  # so that it fits into 80 columns
    for head in columns(result):
        words = head in ("goal", "errors")
        table.add_column(head.replace(" ", "\n", 1), justify="left" if words else "right", no_wrap=head != "errors")
    best = result.carried
    for level in result.levels:
        style = "bold green" if level == best else "red" if result.goal.missed(level) else ""
        table.add_row(*map(sanitize_line, row(result, level)), style=style)
    console.print(table)
    console.print()
    console.print(Text(result.verdict(), style="bold"))
    for remark in result.remarks():
        console.print(Text(remark))


def show_two(old: Result, new: Result, console: Console) -> None:
    """Print what changed between two results, load by load."""
    for name in ("model", "kind", "prompt", "answer", "equal"):
        if getattr(old, name) != getattr(new, name):
            told = f"{name} {getattr(old, name)!r} before, {getattr(new, name)!r} now"
            console.print(Text(f"These two did not ask for the same: {sanitize_line(told)}.", style="yellow"))
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("users" if new.kind == "users" else "requests/s", justify="right")
    for head in ("tokens/s", "first token", "tokens/s each"):
        for part in ("before", "now", "change"):
            table.add_column(f"{head}, {part}" if part == "before" else part, justify="right")
    before = {level.load: level for level in old.levels} if old.kind == new.kind else {}
    both = [(before[level.load], level) for level in new.levels if level.load in before]
    for was, now in both:
        cells = [f"{now.load:g}"]
        cells += _change(was.tokens_per_second, now.tokens_per_second)
        cells += _change(_median(was.first_token), _median(now.first_token), times=True)
        cells += _change(_median(was.speed), _median(now.speed))
        table.add_row(*cells)
    if both:
        console.print(table)
    else:
        console.print(Text("The two have no load in common.", style="yellow"))
    console.print(Text(sanitize_line(f"before ({old.commit or old.made}): {old.verdict()}")))
    console.print(Text(sanitize_line(f"now ({new.commit or new.made}): {new.verdict()}"), style="bold"))


def _median(spread: Spread | None) -> float | None:
    return spread.median if spread else None


def _change(was: float | None, now: float | None, *, times: bool = False) -> list[str]:
    shown = ["-" if one is None else seconds_text(one) if times else f"{one:,.1f}" for one in (was, now)]
    return [*shown, f"{now / was - 1:+.0%}" if was and now is not None else "-"]
