"""A result as a picture: the first token and the speed of a user against the load, with the goal drawn in. SVG."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from client.terminal import sanitize_line
from serving.bench.goal import seconds_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from serving.bench.result import Result

WIDTH, HEIGHT = 960, 400
TOP, BOTTOM = 96, 336
PANELS = ((64, 464), (540, 940))
MOST_TICKS = 5
# Beyond this many times the goal a time leaves the picture: how bad it gets matters less than where it turns.
GOALS_SHOWN = 4.0
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2430 } .title { font-size: 18px; font-weight: 600 }
.head { font-weight: 600 } .faint { fill: #667085 } .grid { stroke: #e6e8ee }
.median { fill: none; stroke: #2457d6; stroke-width: 2.5 }
.tail { fill: none; stroke: #2457d6; stroke-width: 1.5; stroke-dasharray: 5 4 }
.dot { fill: #2457d6 } .goal { stroke: #c4320a; stroke-width: 1.5; stroke-dasharray: 8 4 } .is-goal { fill: #c4320a }
.best { stroke: #157f3c; stroke-width: 1.5 } .is-best { fill: #157f3c; font-weight: 600 }
"""

Point = tuple[float, float]


@dataclass(frozen=True)
class _Panel:
    """One of the two charts: where it stands, its title, its curves, the goal, and how a value is written."""

    left: int
    right: int
    title: str
    median: Sequence[Point]
    tail: Sequence[Point]
    goal: float
    written: Callable[[float], str]
    most: float = math.inf


def svg(result: Result) -> str:
    """Return the picture of a result; whatever a server wrote in it is escaped."""
    levels = result.levels
    first = _Panel(
        *PANELS[0],
        "First token",
        [(level.load, level.first_token.median) for level in levels if level.first_token],
        [(level.load, level.first_token.tail) for level in levels if level.first_token],
        result.goal.first_token,
        seconds_text,
        GOALS_SHOWN * result.goal.first_token,
    )
    speed = _Panel(
        *PANELS[1],
        "Tokens a second, each user",
        [(level.load, level.speed.median) for level in levels if level.speed],
        [(level.load, level.speed.tail) for level in levels if level.speed],
        result.goal.speed,
        "{:g}".format,
    )
    unit = "users at once" if result.kind == "users" else "requests a second"
    best = result.carried
    lengths = "{:,} to {:,}".format(*result.answer) if result.answer[0] != result.answer[1] else f"{result.answer[0]:,}"
    asked = f"prompts of {result.prompt:,} tokens, answers of {lengths}"
    about = f"{sanitize_line(result.model)}, {asked}. Solid: median; dashed: 19 of 20."
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(result.verdict())}">',
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="10" fill="#fff"/>',
        f'<text class="title" x="24" y="34">{escape(result.verdict())}</text>',
        f'<text class="faint" x="24" y="56">{escape(about)}</text>',
    ]
    loads = [level.load for level in levels]
    for panel in (first, speed):
        parts += _drawn(panel, loads, best.load if best else None, unit)
    return "\n".join([*parts, "</svg>", ""])


def _drawn(panel: _Panel, loads: Sequence[float], best: float | None, unit: str) -> list[str]:
    values = [value for _, value in (*panel.median, *panel.tail)]
    top = max(min(max(values, default=0.0), panel.most), 1.3 * panel.goal)
    step = _nice(top / MOST_TICKS)
    top = math.ceil(top / step) * step

    def y(value: float) -> float:
        return BOTTOM - min(value / top, 1.0) * (BOTTOM - TOP)

    low, high = (math.log(min(loads)), math.log(max(loads))) if loads else (0.0, 0.0)

    def x(load: float) -> float:
        share = (math.log(load) - low) / (high - low) if high > low else 0.5
        return panel.left + 16 + share * (panel.right - panel.left - 32)

    parts = [f'<text class="head" x="{panel.left}" y="{TOP - 14}">{panel.title}</text>']
    for number in range(round(top / step) + 1):
        at = y(number * step)
        parts.append(f'<path class="grid" d="M{panel.left} {at:.1f}H{panel.right}"/>')
        label = panel.written(number * step) if number else "0"
        parts.append(f'<text class="faint" x="{panel.left - 8}" y="{at + 4:.1f}" text-anchor="end">{label}</text>')
    shown_until = -math.inf
    for load in loads:
        label = f"{load:g}"
        if x(load) - shown_until < 8 * len(label) + 6:
            continue
        shown_until = x(load)
        parts.append(f'<text class="faint" x="{x(load):.1f}" y="{BOTTOM + 20}" text-anchor="middle">{label}</text>')
    middle = (panel.left + panel.right) / 2
    parts.append(f'<text class="faint" x="{middle}" y="{BOTTOM + 42}" text-anchor="middle">{unit}</text>')
    if best is not None:
        parts.append(f'<path class="best" d="M{x(best):.1f} {TOP}V{BOTTOM}"/>')
        anchor = "end" if x(best) > middle else "start"
        beside = x(best) + (-6 if anchor == "end" else 6)
        parts.append(f'<text class="is-best" x="{beside:.1f}" y="{TOP + 12}" text-anchor="{anchor}">{best:g}</text>')
    parts.append(f'<path class="goal" d="M{panel.left} {y(panel.goal):.1f}H{panel.right}"/>')
    goal = f"goal {panel.written(panel.goal)}"
    parts.append(f'<text class="is-goal" x="{panel.left + 6}" y="{y(panel.goal) - 6:.1f}">{goal}</text>')
    for name, points in (("tail", panel.tail), ("median", panel.median)):
        way = " ".join(f"{x(load):.1f},{y(value):.1f}" for load, value in points)
        parts.append(f'<polyline class="{name}" points="{way}"/>')
    parts += [f'<circle class="dot" cx="{x(load):.1f}" cy="{y(value):.1f}" r="3.5"/>' for load, value in panel.median]
    return parts


def _nice(step: float) -> float:
    """Return the next step of 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= step * 0.999)
