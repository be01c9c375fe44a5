"""From settings to a vLLM that can be started: hardware, model, plan, command, and what stands in the way."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from client.settings import DEFAULT_MODEL
from serving.checks.model import to_download
from serving.checks.preflight import preflight
from serving.engine.command import GEMMA_TEMPLATE, EngineCommand, build
from serving.engine.program import ENGINE_PYTHON, find_engine
from serving.errors import ConfigurationError, DoesNotFit, Refused
from serving.hardware import nvml
from serving.hardware.parse import parse_gpus
from serving.model.resolve import resolve
from serving.model.tryout import DEFAULT_TRYOUT, TRYOUT_MODELS, TryoutModel, checkpoint
from serving.planning.plan import Plan, Wishes, make_plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from serving.engine.download import Download
    from serving.hardware.gpu import Hardware
    from serving.settings import ServeSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Launch:
    """Hold what `make serve` is about to do.

    `about` is set for a try-out model: what its answers are worth. `download` is what vLLM will download first.
    """

    settings: ServeSettings
    hardware: Hardware
    plan: Plan
    command: EngineCommand
    about: str | None = None
    download: Download | None = None


def prepare(settings: ServeSettings, say: Callable[[str], None] = logger.info, *, rehearse: bool = False) -> Launch:
    """Find the hardware and the engine, settle the model, plan, and build the command; start nothing.

    Converts a try-out model the first time. `say` gets the lines that a user should see on the way. With `rehearse`,
    as with SERVE_GPUS, what only the real machine could satisfy is a warning. Raises ConfigurationError, Refused or
    DoesNotFit, each with the sentence that says what to do.
    """
    refuse_open_server(settings)
    program = find_engine(settings.engine)
    hardware = find_hardware(settings)
    tryout = choose_tryout(settings, hardware)
    if tryout is None:
        name = settings.model or DEFAULT_MODEL
        served_name = settings.served_model_name or name
        source = name
    else:
        if settings.served_model_name not in (None, tryout.name, settings.llm_model):
            logger.warning("SERVE_SERVED_MODEL_NAME does nothing: a try-out model serves under its own name alone.")
        served_name = tryout.name
        source = str(checkpoint(tryout, settings.cache_dir, ENGINE_PYTHON, say))
        say(banner(tryout))
    facts = resolve(source)
    plan = make_plan(facts, hardware, Wishes.from_settings(settings))
    if not plan.fits:
        raise DoesNotFit(plan.reason)
    say(plan.summary.replace(source, served_name) if tryout else plan.summary)
    preflight(settings, hardware, facts, plan, rehearse=rehearse or settings.gpus is not None)
    command = build(
        settings,
        plan,
        program=program,
        served_name=served_name,
        gemma=facts.gemma,
        sampling=tryout.sampling if tryout else None,
        chat_template=GEMMA_TEMPLATE if tryout and tryout.gemma else None,
        offline=Path(plan.args[0]).is_dir(),
    )
    about = tryout.about if tryout else None
    return Launch(settings, hardware, plan, command, about, to_download(facts, plan))


def refuse_open_server(settings: ServeSettings) -> None:
    """Raise ConfigurationError if everybody on the network could use the server without a key."""
    if not settings.loopback and settings.api_key is None and not settings.allow_open:
        raise ConfigurationError(
            f"SERVE_HOST={settings.host!r} without a key would serve everybody who can reach it: set SERVE_API_KEY, "
            "or SERVE_ALLOW_OPEN=1 if that is meant."
        )


def find_hardware(settings: ServeSettings) -> Hardware:
    """Return the GPUs that SERVE_GPUS states, else those of this machine. Raises Refused where they cannot be used."""
    if settings.gpus is not None:
        return parse_gpus(settings.gpus)
    found = nvml.detect()
    if found.problem:
        raise Refused(f"{found.problem}.")
    return found


def choose_tryout(settings: ServeSettings, hardware: Hardware) -> TryoutModel | None:
    """Return the try-out model to serve: the one that is named, or the default where no model is and there is no GPU.

    A model that is named is never replaced by another, and a GPU always means the real model.
    """
    if settings.model in TRYOUT_MODELS:
        return TRYOUT_MODELS[settings.model]
    if settings.model is None and not hardware.gpus:
        return TRYOUT_MODELS[DEFAULT_TRYOUT]
    if settings.model is not None and settings.model.startswith("tryout-"):
        raise ConfigurationError(
            f"SERVE_MODEL={settings.model!r} is not allowed: the try-out models are {', '.join(TRYOUT_MODELS)}."
        )
    return None


def banner(tryout: TryoutModel) -> str:
    """Return the lines that keep anybody from taking a try-out model for Gemma."""
    lines = (f"TRY-OUT MODEL, NOT GEMMA 3 27B: {tryout.name}", tryout.about + ".", f"Served as {tryout.name!r} only.")
    width = max(map(len, lines))
    return "\n".join(
        ("┌" + "─" * (width + 2) + "┐", *(f"│ {line:<{width}} │" for line in lines), "└" + "─" * (width + 2) + "┘")
    )
