"""From settings to a vLLM that can be started, in steps that every command takes: none of them has its own.

    find_hardware   the GPUs of this machine, or those that are described
    settle          which model, under which name, and what is asked of its plan
    Settled.plan    what of it fits
    survey          all three on this machine, with every check of what could stop a start
    prepare         the survey, its first refusal raised, and the command of vLLM
    for_others      `settle` for machines that are not this one: what is deployed or exported

`serve` and RunPod's worker prepare; `doctor` surveys; `plan` settles and plans; `export` and the deployment settle for
others and plan for each kind of machine. So what one refuses, each refuses. The words are the user's own: variables
where a command is steered by variables, options where it has them (`planning.words`).
"""

from __future__ import annotations

import logging
import textwrap
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client.settings import DEFAULT_MODEL
from serving.checks.all import every_check
from serving.checks.machine import driver_problem
from serving.checks.model import to_download
from serving.engine.command import EngineCommand, build
from serving.engine.program import ENGINE_PYTHON, engine_python, find_engine
from serving.errors import ConfigurationError, Refused, ServingError
from serving.hardware import nvml
from serving.hardware.parse import parse_gpus
from serving.model import tryout as tryouts
from serving.model.additions import Additions, find_draft, read_adapters
from serving.model.ask_vllm import AskVllm
from serving.model.facts import unknown
from serving.model.hub import HubReader
from serving.model.hub_cache import find_hub
from serving.model.resolve import resolve
from serving.model.revisions import revision_of
from serving.model.tryout import DEFAULT_TRYOUT, TRYOUT_MODELS
from serving.planning.plan import Plan, PlanRequest, make_plan
from serving.planning.words import Words

if TYPE_CHECKING:
    from collections.abc import Callable

    from serving.checks.check import Check
    from serving.engine.download import Download
    from serving.hardware.gpu import Hardware
    from serving.model.facts import ModelFacts
    from serving.model.tryout import TryoutModel
    from serving.settings import ServeSettings

logger = logging.getLogger(__name__)

BANNER_COLUMNS = 80


@dataclass(frozen=True)
class Settled:
    """What is to be served, as far as that does not depend on the machine.

    `served_name` is what requests call it; `tryout` is set if it is a try-out model; `additions` is what is served with
    it.
    """

    settings: ServeSettings
    served_name: str
    facts: ModelFacts
    request: PlanRequest
    tryout: TryoutModel | None = None
    additions: Additions = field(default_factory=Additions)

    def plan(self, hardware: Hardware, precision: Any = None) -> Plan:
        """Return the plan for a machine, which may be that nothing fits. Raises ConfigurationError.

        `precision`: plan for this one, whichever was asked for.
        """
        request = self.request if precision is None else replace(self.request, precision=precision)
        return make_plan(self.facts, hardware, request)

    def command(self, plan: Plan, program: Path, cache: Path | None = None) -> EngineCommand:
        """Return the command that starts vLLM as planned; where it runs on this machine, `cache` holds its models."""
        named = plan.checkpoint == (self.settings.model or DEFAULT_MODEL)
        return build(
            self.settings,
            plan,
            program=program,
            served_name=self.served_name,
            family=self.facts.family,
            sampling=self.tryout.sampling if self.tryout else None,
            banner=f"TRY-OUT MODEL, NOT GEMMA 3 27B: {self.tryout.about}." if self.tryout else None,
            images=self.facts.vision and not plan.language_model_only,
            additions=self.additions.arguments,
            revision=(self.settings.revision if named else None) or revision_of(str(plan.checkpoint), cache),
        )

    def summary(self, plan: Plan) -> str:
        """Return the plan in one line, without the folder of a try-out model."""
        return plan.summary.replace(str(plan.checkpoint), self.served_name) if self.tryout else plan.summary


@dataclass(frozen=True)
class Survey:
    """What is known of a start on this machine. `settled` and `plan` are None where a check says why."""

    hardware: Hardware
    settled: Settled | None
    plan: Plan | None
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class Launch:
    """What `make serve` is about to do. `download` is what vLLM will download first."""

    settings: ServeSettings
    hardware: Hardware
    settled: Settled
    plan: Plan
    command: EngineCommand
    download: Download | None = None

    @property
    def processes(self) -> int:
        """Return how many processes vLLM starts one after the other; those that share a model count as one.

        On one GPU the engine core computes itself; else it has workers (vLLM 0.32, `v1/executor/abstract.py`).
        """
        return 2 if self.plan.gpus and (self.plan.tensor_parallel_size or 1) == 1 else 3

    @property
    def about(self) -> str | None:
        """Return what a try-out model's answers are worth, None for any other model."""
        return self.settled.tryout.about if self.settled.tryout else None


def find_hardware(settings: ServeSettings, gpus: str | None = None) -> Hardware:
    """Return the GPUs that `--gpus` describes (`gpus`), else those of SERVE_GPUS, else this machine's.

    Raises ConfigurationError for a description that makes no sense. A driver that does not work is `problem`.
    """
    if gpus is not None:
        return parse_gpus(gpus, "--gpus")
    return parse_gpus(settings.gpus) if settings.gpus is not None else nvml.detect()


def settle(
    settings: ServeSettings,
    *,
    gpu: bool,
    model: str | None = None,
    words: Words | None = None,
    hub_cache: Path | None = None,
    say: Callable[[str], None] = logger.info,
) -> Settled:
    """Settle what is served: `model`, else SERVE_MODEL, else Gemma 3 27B, or without a GPU the default try-out model.

    A model that is named is never replaced by another, and a GPU always means the real model. What is in no table is
    asked of vLLM, which takes half a minute the first time: `say` gets the steps. What is not here is read from the
    hub. `hub_cache` is where a model's configuration is, if not in Hugging Face's own cache. Raises ConfigurationError
    or Refused for a model that is not known, ConfigurationError for settings that cannot be read.
    """
    words = words or Words()
    request = PlanRequest.from_settings(settings, words)
    name = model or settings.model
    hub_cache = hub_cache or find_hub(settings.engine_variables).cache
    tryout = _tryout(name, gpu=gpu, words=words)
    if tryout is None:
        name = name or DEFAULT_MODEL
        facts = _facts(name, settings, request, hub_cache, say)
        served = settings.served_model_name or name
    else:
        facts, served = tryouts.facts(tryout, settings.cache_dir), tryout.name
    draft = None
    if settings.speculate != "off":
        draft = find_draft(settings.speculate, facts, lambda: _hub(settings, "SERVE_SPECULATE"), hub_cache)
        facts = replace(facts, kv_layers=facts.kv_layers + draft.kv_layers)
        request = replace(request, draft_bytes=draft.weight_bytes)
    additions = Additions(read_adapters(settings.lora, served), draft)
    request = replace(request, lora_rank=additions.rank, lora_slots=len(additions.adapters))
    return Settled(settings, served, facts, request, tryout, additions)


def for_others(settings: ServeSettings, verb: str, say: Callable[[str], None] = logger.info) -> Settled:
    """Settle what is to be `verb` ("deployed", "exported"): machines with GPUs and a network, not this one.

    Raises ConfigurationError, for a try-out model too.
    """
    settled = settle(settings, gpu=True, say=say)
    if settled.tryout is not None:
        raise ConfigurationError(
            f"SERVE_MODEL={settled.tryout.name!r} cannot be {verb}: it is a try-out model, made on this machine to "
            f"show that everything works. Unset SERVE_MODEL for {DEFAULT_MODEL}, or name a model on Hugging Face."
        )
    if settled.request.off or not settled.facts.sized:
        why = "SERVE_PLAN=off says nothing of" if settled.request.off else "the size of its weights is not known for"
        raise ConfigurationError(
            f"{settled.facts.name} cannot be {verb}: {why} the machines that it takes. Without a plan it can be served "
            "on a machine of its own, with `make serve`."
        )
    return settled


def survey(
    settings: ServeSettings,
    *,
    ask_hub: bool = False,
    listen: bool = True,
    say: Callable[[str], None] = logger.info,
) -> Survey:
    """Find the hardware, settle the model, plan, and check all that could stop a start; start and convert nothing.

    `ask_hub`: ask the network too. `listen`: the port must be free now. `say`: see `settle`. Raises ConfigurationError
    for GPUs in SERVE_GPUS that make no sense; everything else is a check.
    """
    hardware = find_hardware(settings)
    settled, plan = None, None
    problem: ServingError | None = driver_problem(hardware)
    if problem is None:
        try:
            settled = settle(settings, gpu=bool(hardware.gpus), say=say)
            plan = settled.plan(hardware)
        except ServingError as error:
            problem = error
    facts = settled.facts if settled else None
    checks = every_check(settings, hardware, facts, plan, problem, ask_hub=ask_hub, listen=listen)
    if settings.gpus is not None:
        checks = (check.softened() if check.needs_machine else check for check in checks)
    return Survey(hardware, settled, plan, tuple(checks))


def prepare(
    settings: ServeSettings,
    say: Callable[[str], None] = logger.info,
    *,
    phase: Callable[[str], None] | None = None,
    dry_run: bool = False,
) -> Launch:
    """Return what is to be started. Converts a try-out model the first time, unless it is a dry run.

    `say` gets the lines that a user should see on the way, `phase` (else `say`) what takes long. In a dry run, as with
    SERVE_GPUS, what only the real machine could satisfy is a warning. Raises ConfigurationError, Refused or DoesNotFit
    for the first check that fails, each with the sentence that says what to do.
    """
    found = survey(settings, listen=not dry_run, say=say)
    for check in found.checks:
        if check.stops and not (dry_run and check.needs_machine):
            raise check.refusal()
        if check.stops or check.status == "warn":
            logger.warning("warning: %s", check.told)
    settled, plan = found.settled, found.plan
    assert settled is not None  # or a check would have failed
    assert plan is not None
    if settled.tryout is not None:
        if settings.served_model_name not in (None, settled.tryout.name, settings.llm_model):
            logger.warning("SERVE_SERVED_MODEL_NAME does nothing: a try-out model serves under its own name alone.")
        if not dry_run:
            tryouts.checkpoint(settled.tryout, settings.cache_dir, ENGINE_PYTHON, phase or say)
        say(banner(settled.tryout))
    say(settled.summary(plan))
    cache = find_hub(settings.engine_variables).cache
    command = settled.command(plan, find_engine(settings.engine), cache)
    download = to_download(settled.facts, plan, cache)
    return Launch(settings, found.hardware, settled, plan, command, download)


def banner(tryout: TryoutModel) -> str:
    """Return the lines that keep anybody from taking a try-out model for Gemma."""
    said = (f"TRY-OUT MODEL, NOT GEMMA 3 27B: {tryout.name}", tryout.about + ".", f"Served as {tryout.name!r} only.")
    lines = [line for text in said for line in textwrap.wrap(text, BANNER_COLUMNS - len("│  │"))]
    width = max(map(len, lines))
    return "\n".join(
        ("┌" + "─" * (width + 2) + "┐", *(f"│ {line:<{width}} │" for line in lines), "└" + "─" * (width + 2) + "┘")
    )


def _facts(
    name: str, settings: ServeSettings, request: PlanRequest, hub_cache: Path | None, say: Callable[[str], None]
) -> ModelFacts:
    """Return the facts of a model that is named; past the plan nothing needs to be known of it."""
    said = request.words.name("model")
    try:
        ask = AskVllm(engine_python(settings.engine), settings.cache_dir, say)
        return resolve(name, hub_cache, said, ask=ask, hub=_hub(settings, said))
    except (ConfigurationError, Refused):
        is_path = name.startswith((".", "/", "~"))
        if not request.off or (is_path and not Path(name).expanduser().is_dir()):
            raise
        return unknown(str(Path(name).expanduser()) if is_path else name)


def _hub(settings: ServeSettings, said: str) -> HubReader:
    hub = find_hub(settings.engine_variables)
    token = settings.hf_token.get_secret_value() if settings.hf_token else hub.stored_token
    return HubReader(hub.endpoint, token, offline=hub.offline, said=said)


def _tryout(name: str | None, *, gpu: bool, words: Words) -> TryoutModel | None:
    if name in TRYOUT_MODELS:
        return TRYOUT_MODELS[name]
    if name is None and not gpu:
        return TRYOUT_MODELS[DEFAULT_TRYOUT]
    if name is not None and name.startswith("tryout-"):
        raise ConfigurationError(
            f"{words.name('model')}={name!r} is not allowed: the try-out models are {', '.join(TRYOUT_MODELS)}."
        )
    return None
