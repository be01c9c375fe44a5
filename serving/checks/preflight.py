"""The quick part of `doctor`, before every start: what would stop vLLM, told without asking the network."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from serving.checks import machine as machine_checks
from serving.checks import model as model_checks
from serving.checks.check import stops
from serving.errors import Refused

if TYPE_CHECKING:
    from serving.hardware.gpu import Hardware
    from serving.model.facts import ModelFacts
    from serving.planning.plan import Plan
    from serving.settings import ServeSettings

logger = logging.getLogger(__name__)


def preflight(settings: ServeSettings, hardware: Hardware, model: ModelFacts, plan: Plan, *, rehearse: bool) -> None:
    """Raise Refused, with the command that helps, for the first thing that would stop the start; warn of the others.

    `rehearse`: what only the machine itself could satisfy (SERVE_GPUS stands in for it) is a warning.
    """
    checks = [
        *machine_checks.engine(settings, hardware),
        *machine_checks.gpus(hardware, given=settings.gpus is not None),
        *machine_checks.memory(hardware, plan),
        *model_checks.checkpoint(settings, model, plan, ask_hub=False),
    ]
    for check in checks:
        told = (
            f"{check.name}: {check.detail} (what helps: {check.fix})."
            if check.fix
            else f"{check.name}: {check.detail}."
        )
        if stops(check) and not (rehearse and check.needs_machine):
            raise Refused(f"{told} `make doctor` checks everything.")
        if stops(check) or check.status == "warn":
            logger.warning("warning: %s", told)
