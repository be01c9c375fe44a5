"""The plan as a person reads it: what is served, why, and where the memory goes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from serving.engine.command import plan_arguments, plan_environment

if TYPE_CHECKING:
    from rich.console import RenderableType

    from serving.hardware.gpu import Hardware
    from serving.model.facts import ModelFacts
    from serving.planning.plan import Plan

# Each part of the memory with its colour and, where there is none, its character.
PARTS = {
    "weights": ("blue", "█"),
    "activations": ("yellow", "▓"),
    "kv_cache": ("green", "▒"),
    "reserve": ("bright_black", "░"),
    "other_processes": ("red", "▚"),
}
BAR_WIDTH = 60


def show(model: ModelFacts, hardware: Hardware, plan: Plan, console: Console | None = None) -> None:
    """Draw the plan on the terminal, or on `console`."""
    console = console or Console(highlight=False)
    on = str(hardware) if hardware.gpus else "the CPU engine (no GPU)"
    name = Path(model.name).name if Path(model.name).is_absolute() else model.name
    title = f"{name} on {on}"
    if not plan.fits:
        console.print(Panel(_misfit(plan), title=escape(title), title_align="left", border_style="red"))
        return
    if not plan.planned:
        console.print(Panel(Text(plan.summary), title=escape(title), title_align="left", border_style="yellow"))
        _print_command(plan, console)
        return
    parts: list[RenderableType] = [_choices(plan), Text(), _memory(plan), Text(), _concurrency(plan)]
    console.print(Panel(Group(*parts), title=escape(title), title_align="left", border_style="green"))
    _print_command(plan, console)


def _print_command(plan: Plan, console: Console) -> None:
    """Print the command outside of the frame, so that it can be copied."""
    prefix = " ".join(f"{name}={value}" for name, value in plan_environment(plan).items())
    console.print(escape(f"{prefix} vllm serve {shlex.join(plan_arguments(plan))}".strip()), soft_wrap=True)


def _misfit(plan: Plan) -> Text:
    text = Text.assemble(("Does not fit. ", "bold red"), plan.reason.split(" What would fit: ")[0])
    if plan.alternatives:
        text.append("\n\nWhat would fit:", "bold")
        for alternative in plan.alternatives:
            text.append(f"\n  {alternative}")
    return text


def _choices(plan: Plan) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    gpus = (plan.tensor_parallel_size or 1) * (plan.data_parallel_size or 1)
    layout = f"{gpus} GPUs" if gpus > 1 else "1 GPU" if plan.gpus else "the CPU"
    if (plan.data_parallel_size or 1) > 1:
        layout += f", {plan.data_parallel_size} copies"
    for name, value, why in (
        ("checkpoint", plan.checkpoint, "gated: accept its licence and set HF_TOKEN" if plan.gated else ""),
        ("precision", plan.precision, plan.reasons.get("precision", "").partition(": ")[2]),
        ("runs on", layout, plan.reasons.get("parallel", "")),
        ("context", f"{plan.max_model_len:,} tokens", plan.reasons.get("context", "").partition("tokens, ")[2]),
        (
            "step",
            f"{plan.max_num_batched_tokens:,} tokens, {plan.max_num_seqs} requests",
            plan.reasons.get("batch", "").partition(": ")[2],
        ),
        ("share", "", plan.reasons.get("memory", "")),
        ("known", "", plan.reasons.get("known", "")),
        ("not counted", "", plan.reasons.get("not_counted", "")),
    ):
        if value or why:
            table.add_row(name, Text.assemble(f"{value}  ", (why.removeprefix(f"{value} "), "dim")))
    return table


def _memory(plan: Plan) -> Group:
    """Draw one GPU's memory as a bar, and say what each part is."""
    total = sum(plan.memory_gib.values()) or 1
    bar, legend = Text("  "), Text("  ")
    for part, gib in plan.memory_gib.items():
        if gib <= 0:
            continue
        style, block = PARTS[part]
        bar.append(block * max(1, round(gib / total * BAR_WIDTH)), style)
        legend.append(f"{block} ", style)
        legend.append(f"{part.replace('_', ' ').replace('kv', 'KV')} {gib:.1f}  ")
    what = "each GPU" if len(plan.gpus) > 1 else "the GPU" if plan.gpus else "the engine"
    return Group(Text(f"Memory of {what}, {total:.1f} GiB", "bold"), bar, legend)


def _concurrency(plan: Plan) -> Table:
    table = Table(title="Requests at once", title_justify="left", title_style="bold", box=box.SIMPLE, pad_edge=False)
    fitting = {tokens: requests for tokens, requests in plan.concurrency.items() if requests is not None}
    table.add_column("tokens each")
    for tokens in fitting:
        table.add_column(f"{tokens:,}", justify="right")
    table.add_row("fit in the KV cache", *(f"{requests:.1f}" for requests in fitting.values()))
    return table
