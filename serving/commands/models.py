"""`python -m serving models`: the models that are known here, and what each takes and does on this machine."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from serving.checks.machine import driver_problem
from serving.errors import Refused
from serving.hardware.catalog import KNOWN_GPUS
from serving.hardware.gpu import Gpu, Hardware
from serving.launch import find_hardware
from serving.model.shipped import MEMBERS
from serving.planning.plan import make_plan
from serving.planning.request import PlanRequest
from serving.settings import ServeSettings
from serving.units import GIB

if TYPE_CHECKING:
    import argparse

    from serving.model.facts import ModelFacts
    from serving.planning.plan import Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `models`."""
    parser.add_argument("--gpus", help="GPUs to plan for (default: SERVE_GPUS, else this machine's)")
    parser.add_argument("--json", action="store_true", help="print the table for machines")


def run(args: argparse.Namespace) -> int:
    """Print the table; return 0. Raises ServingError."""
    settings = ServeSettings.load()
    hardware = find_hardware(settings, args.gpus)
    if problem := driver_problem(hardware):
        raise Refused(f"{problem} With --gpus it can be planned without.")
    asked = replace(PlanRequest.from_settings(settings), off=False, max_model_len=None)
    rows = [row(facts, hardware, asked) for facts in MEMBERS]
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    _show(rows, hardware, asked)
    return 0


def row(facts: ModelFacts, hardware: Hardware, asked: PlanRequest) -> dict[str, Any]:
    """Return what is to be said of a model: `here` is its plan in a few words, None where it does not fit."""
    # What contradicts one model does not speak against the others.
    wished = replace(asked, tensor_parallel_size=None, quantization=None, dtype="auto")
    if asked.precision != "auto" and facts.checkpoint(asked.precision) is None:
        wished = replace(wished, precision="auto")
    plan = make_plan(facts, hardware, wished)
    return {
        "model": facts.name,
        "gated": facts.checkpoints[0].gated,
        "images": facts.vision,
        "max_model_len": facts.max_model_len,
        "weights_gib": {item.precision: round(item.weight_bytes / GIB, 1) for item in facts.checkpoints},
        "smallest_gpu": _smallest(facts, wished),
        "here": _words(plan),
    }


def _words(plan: Plan) -> str | None:
    if not plan.fits or plan.max_model_len is None:
        return None
    gpus = len(plan.gpus)
    where = f" on {gpus} GPUs" if gpus > 1 else "" if gpus else " on the CPU"
    at_once = plan.concurrency.get(8192)
    many = f", {at_once:.0f} requests of 8k" if at_once else ""
    return f"{plan.precision}{where}, {plan.max_model_len // 1024}k tokens{many}"


def _smallest(facts: ModelFacts, asked: PlanRequest) -> str | None:
    """Return the smallest known GPU that holds the model alone, in whatever precision."""
    for known in sorted((item for item in KNOWN_GPUS if not item.unified), key=lambda item: item.gib):
        size = int(known.gib * GIB)
        card = Hardware((Gpu(known.name, size, size, known.capability),), source="given")
        plan = make_plan(facts, card, asked)
        if plan.fits:
            return f"{known.name} ({plan.precision})"
    return None


def _show(rows: list[dict[str, Any]], hardware: Hardware, asked: PlanRequest) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    here = str(hardware) if hardware.gpus else "without a GPU"
    table = Table(box=box.SIMPLE, title=f"At least {asked.context:,} tokens, {here}", title_style="bold")
    table.add_column("SERVE_MODEL", no_wrap=True)
    for name in ("GiB of weights", "smallest GPU", "here"):
        table.add_column(name)
    for item in rows:
        sizes = ", ".join(f"{precision} {size:g}" for precision, size in item["weights_gib"].items())
        name = item["model"] + ("*" if item["gated"] else "")
        smallest = (item["smallest_gpu"] or "-").removeprefix("NVIDIA ").removeprefix("GeForce ")
        table.add_row(name, sizes, smallest, item["here"] or "does not fit")
    console.print(table)
    print("* gated: accept the licence at https://huggingface.co/NAME, and set HF_TOKEN.")
    print("Any other model that vLLM serves is planned too: SERVE_MODEL=owner/name, or a folder.")
