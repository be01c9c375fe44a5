"""Everything that can stop a start, in the order in which `serve` meets it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serving.checks import machine, model, settings
from serving.checks.check import Check
from serving.errors import DoesNotFit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from serving.errors import ServingError
    from serving.hardware.gpu import Hardware
    from serving.model.facts import ModelFacts
    from serving.planning.plan import Plan
    from serving.settings import ServeSettings


def every_check(
    serve: ServeSettings,
    hardware: Hardware,
    facts: ModelFacts | None,
    plan: Plan | None,
    problem: ServingError | None,
    *,
    ask_hub: bool,
    listen: bool,
) -> Iterator[Check]:
    """Yield the checks of a start, for `doctor` and for `serve`; the first that fails is what `serve` ends with.

    `problem` is why there is no plan. Without `ask_hub` the network is left alone, without `listen` the port.
    """
    yield settings.callers(serve)
    yield from settings.certificate(serve)
    yield from settings.log_file(serve)
    yield from settings.loader(serve, hardware)
    yield from settings.access_log(serve)
    yield from machine.engine(serve, hardware)
    yield plan_check(plan, problem)
    yield from machine.gpus(hardware, given=serve.gpus is not None)
    yield from machine.memory(hardware, plan)
    if facts is not None:
        yield from model.checkpoint(serve, facts, plan, ask_hub=ask_hub)
    if listen:
        yield machine.port(serve)
    yield machine.clock(serve)


def plan_check(plan: Plan | None, problem: ServingError | None) -> Check:
    """Check that there is a plan, and that it fits."""
    if problem is not None:
        return Check.failed("plan", problem, "see what it names")
    assert plan is not None
    if not plan.fits:
        said, _, rest = plan.reason.partition(" What would fit: ")
        return Check("plan", "fail", said, f"what would fit: {rest}" if rest else None, error=DoesNotFit(plan.reason))
    if not plan.planned:
        return Check("plan", "warn", plan.summary)
    fits = f"{plan.checkpoint} with {plan.max_model_len:,} tokens fits"
    if not_counted := plan.reasons.get("not_counted"):
        return Check("plan", "warn", f"{fits}. {not_counted}")
    return Check("plan", "ok", fits)
