"""`python -m serving plan`: what fits, before a byte is downloaded."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from client.settings import DEFAULT_MODEL
from serving.errors import ConfigurationError, DoesNotFit, Refused
from serving.hardware import nvml
from serving.hardware.parse import parse_gpus
from serving.model.resolve import resolve
from serving.model.tryout import TRYOUT_MODELS
from serving.planning.plan import make_plan
from serving.planning.precision import ORDER
from serving.planning.request import Wishes
from serving.settings import ServeSettings

if TYPE_CHECKING:
    import argparse

    from serving.hardware.gpu import Hardware
    from serving.model.facts import ModelFacts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `plan`; what is not given comes from the SERVE_* settings."""
    add_model_arguments(parser)
    parser.add_argument("--gpus", help="GPUs to plan for, like '2x NVIDIA L40S' or '1x 79.2GiB sm90 free=40GiB'")
    parser.add_argument("--json", action="store_true", help="print the plan for machines")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what to plan, and with which wishes."""
    parser.add_argument("--model", help=f"model to plan for (default: SERVE_MODEL, else {DEFAULT_MODEL})")
    parser.add_argument("--context", help="least number of tokens in a request (default: SERVE_CONTEXT)")
    parser.add_argument("--precision", help=f"auto, {', '.join(ORDER)} (default: SERVE_PRECISION)")
    parser.add_argument(
        "--text-only", action="store_true", default=None, help="without images (default: SERVE_TEXT_ONLY)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the plan; return 0 if it fits, 3 if not. Raises ServingError."""
    settings = ServeSettings.load()
    hardware = find_hardware(settings, args.gpus)
    if hardware.problem:
        raise Refused(f"{hardware.problem}. --gpus plans without it.")
    model = find_model(settings, args.model)
    plan = make_plan(model, hardware, wishes(settings, args))
    if args.json:
        print(json.dumps(plan.as_json(), indent=2))
    else:
        from serving.commands.plan_view import show

        show(model, hardware, plan)
    return 0 if plan.fits else DoesNotFit.exit_status


def find_hardware(settings: ServeSettings, given: str | None = None) -> Hardware:
    """Return the GPUs of `--gpus`, else of SERVE_GPUS, else of this machine."""
    if given is not None:
        return parse_gpus(given, "--gpus")
    if settings.gpus is not None:
        return parse_gpus(settings.gpus)
    return nvml.detect()


def find_model(settings: ServeSettings, given: str | None = None) -> ModelFacts:
    """Return the facts of `--model`, else of SERVE_MODEL, else of Gemma 3 27B."""
    name = given or settings.model or DEFAULT_MODEL
    tryout = TRYOUT_MODELS.get(name)
    if tryout is None:
        return resolve(name)
    folder = settings.cache_dir / f"{tryout.name}-{tryout.revision}"
    if not folder.is_dir():
        raise ConfigurationError(f"SERVE_MODEL={name!r} is not converted yet: `make serve` does that the first time.")
    return resolve(str(folder))


def wishes(settings: ServeSettings, args: argparse.Namespace) -> Wishes:
    """Return the wishes of the settings and the options, which win. Raises ConfigurationError for a bad option."""
    found = Wishes.from_settings(settings)
    if args.context is not None:
        found = replace(found, context=_tokens(args.context))
    if args.precision is not None:
        if args.precision not in ("auto", *ORDER):
            raise ConfigurationError(
                f"--precision={args.precision!r} is not allowed: it must be auto, bf16, fp8 or int4."
            )
        found = replace(found, precision=args.precision)
    if args.text_only:
        found = replace(found, text_only=True)
    return found


def _tokens(text: str) -> int:
    """Read a number of tokens: 32768, 32,768 or 32k (which is 32,768)."""
    digits = text.strip().lower().replace(",", "").replace("_", "")
    scale = 1024 if digits.endswith("k") else 1
    digits = digits.removesuffix("k")
    if not digits.isdecimal() or int(digits) < 1:
        raise ConfigurationError(f"--context={text!r} is not allowed: it must be a number of tokens, 1 or more.")
    return int(digits) * scale
