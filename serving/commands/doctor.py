"""`python -m serving doctor`: every precondition of `make serve`, and the command that fixes what is missing."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from client.settings import DEFAULT_MODEL
from serving.checks import machine as machine_checks
from serving.checks import model as model_checks
from serving.checks.check import MARKS, Check, stops
from serving.commands.plan import find_hardware
from serving.errors import ConfigurationError
from serving.launch import choose_tryout
from serving.model.resolve import resolve
from serving.planning.plan import make_plan
from serving.planning.request import Wishes
from serving.settings import ServeSettings

if TYPE_CHECKING:
    import argparse

    from serving.hardware.gpu import Hardware
    from serving.model.facts import ModelFacts
    from serving.planning.plan import Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `doctor`; everything else is a setting."""
    parser.add_argument("--json", action="store_true", help="print the checks and the plan for machines")


def run(args: argparse.Namespace) -> int:
    """Print the checks and the plan; return 1 if anything would stop `make serve`, else 0."""
    settings = ServeSettings.load()
    hardware = find_hardware(settings)
    model, plan, problem = _plan(settings, hardware)
    checks = [
        *machine_checks.engine(settings, hardware),
        *machine_checks.gpus(hardware, given=settings.gpus is not None),
        *machine_checks.memory(hardware, plan),
        machine_checks.port(settings),
        machine_checks.clock(),
        *(model_checks.checkpoint(settings, model, plan) if model else ()),
        _plan_check(plan, problem),
    ]
    if settings.gpus is not None:
        checks = [check.softened() if check.needs_machine else check for check in checks]
    ok = not any(stops(check) for check in checks)
    if args.json:
        shown = [asdict(check.settled()) for check in checks]
        print(json.dumps({"ok": ok, "checks": shown, "plan": plan.as_json() if plan else None}, indent=2))
        return 0 if ok else 1
    _show(checks)
    if model is not None and plan is not None and plan.fits:
        from serving.commands.plan_view import show

        show(model, hardware, plan)
    return 0 if ok else 1


def _plan(settings: ServeSettings, hardware: Hardware) -> tuple[ModelFacts | None, Plan | None, str | None]:
    """Return what `make serve` would serve and its plan, or why there is none."""
    if hardware.problem:
        return None, None, "there is no plan while the driver does not work"
    try:
        tryout = choose_tryout(settings, hardware)
        name = settings.model or DEFAULT_MODEL
        if tryout is not None:
            folder = settings.cache_dir / f"{tryout.name}-{tryout.revision}"
            if not folder.is_dir():
                return None, None, None  # it is converted at the first start
            name = str(folder)
        model = resolve(name)
        return model, make_plan(model, hardware, Wishes.from_settings(settings)), None
    except ConfigurationError as error:
        return None, None, str(error)


def _plan_check(plan: Plan | None, problem: str | None) -> Check:
    if problem is not None:
        return Check("plan", "fail", problem, "see what it names")
    if plan is None:
        return Check("plan", "ok", "the try-out model: there is no GPU (its first start converts it, about a minute)")
    if not plan.fits:
        said, _, rest = plan.reason.partition(" What would fit: ")
        return Check("plan", "fail", said, f"what would fit: {rest}" if rest else None)
    return Check("plan", "ok", f"{plan.checkpoint} with {plan.max_model_len:,} tokens fits")


def _show(checks: list[Check]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    for check in checks:
        mark, style = MARKS[check.status]
        text = Text(check.detail)
        if check.settled().fix:
            text.append(f"\n-> {check.fix}", "bold")
        table.add_row(Text(mark, style), check.name, text)
    Console(highlight=False).print(table)
