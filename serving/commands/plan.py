"""`python -m serving plan`: what fits, before a byte is downloaded."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from client.settings import DEFAULT_MODEL
from serving.checks.machine import driver_problem
from serving.commands.say import say
from serving.engine.command import plan_arguments
from serving.errors import ConfigurationError, DoesNotFit, Refused
from serving.launch import find_hardware, settle
from serving.planning.words import Words
from serving.settings import ServeSettings

if TYPE_CHECKING:
    import argparse

    from serving.launch import Settled
    from serving.planning.plan import Plan

# The keys of `python -m serving plan --json`, in this order, all of them always.
JSON_KEYS = (
    "fits",
    "reason",
    "precision",
    "checkpoint",
    "tensor_parallel_size",
    "data_parallel_size",
    "max_model_len",
    "max_num_batched_tokens",
    "max_num_seqs",
    "kv_cache_tokens",
    "concurrency",
    "memory_gib",
    "args",
)
PRECISIONS = ("auto", "bf16", "fp8", "int4")
OPTIONS = ("model", "context", "precision", "text_only")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `plan`; what is not given comes from the SERVE_* settings."""
    add_model_arguments(parser)
    parser.add_argument("--gpus", help="GPUs to plan for, like '2x NVIDIA L40S' or '1x 79.2GiB sm90 free=40GiB'")
    parser.add_argument("--json", action="store_true", help="print the plan for machines")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what to plan, and what is asked of the plan."""
    parser.add_argument("--model", help=f"model to plan for (default: SERVE_MODEL, else {DEFAULT_MODEL})")
    parser.add_argument("--context", help="least number of tokens in a request (default: SERVE_CONTEXT)")
    parser.add_argument("--precision", help=f"{', '.join(PRECISIONS)} (default: SERVE_PRECISION)")
    parser.add_argument(
        "--text-only", action="store_true", default=None, help="without images (default: SERVE_TEXT_ONLY)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the plan; return 0 if it fits, 3 if not. Raises ServingError."""
    settings = ServeSettings.load()
    hardware = find_hardware(settings, args.gpus)
    if problem := driver_problem(hardware):
        raise Refused(f"{problem} With --gpus it can be planned without.")
    settled = settle_options(settings, args, gpu=bool(hardware.gpus))
    plan = settled.plan(hardware)
    if args.json:
        print(json.dumps(as_json(plan), indent=2))
    else:
        from serving.commands.plan_view import show

        show(settled.facts, hardware, plan)
        if settled.tryout is not None and args.model is None and settings.model is None:
            print("There is no GPU: `make serve` takes the try-out model. `plan --gpus '1x H100'` plans for others.")
    return 0 if plan.fits else DoesNotFit.exit_status


def settle_options(settings: ServeSettings, args: argparse.Namespace, *, gpu: bool) -> Settled:
    """Settle the model, and what the settings and the options ask of the plan; the options win.

    Raises ConfigurationError for a bad option.
    """
    given = {option: f"--{option.replace('_', '-')}" for option in OPTIONS if getattr(args, option) is not None}
    settled = settle(settings, gpu=gpu, model=args.model, words=Words(frozenset(OPTIONS), given), say=say)
    request = settled.request
    if args.context is not None:
        request = replace(request, context=_tokens(args.context))
    if args.precision is not None:
        if args.precision not in PRECISIONS:
            raise ConfigurationError(
                f"--precision={args.precision!r} is not allowed: it must be auto, bf16, fp8 or int4."
            )
        request = replace(request, precision=args.precision)
    if args.text_only:
        request = replace(request, text_only=True)
    return replace(settled, request=request)


def as_json(plan: Plan) -> dict[str, Any]:
    """Return the plan under JSON_KEYS, with null for what a plan that does not fit lacks."""
    values = {key: getattr(plan, key, None) for key in JSON_KEYS}
    if not plan.fits:
        return values | {"concurrency": None, "memory_gib": None, "args": None}
    return values | {
        "concurrency": {str(tokens): requests for tokens, requests in plan.concurrency.items()},
        "args": list(plan_arguments(plan)),
    }


def _tokens(text: str) -> int:
    """Read a number of tokens: 32768, 32,768 or 32k (which is 32,768)."""
    digits = text.strip().lower().replace(",", "").replace("_", "")
    scale = 1024 if digits.endswith("k") else 1
    digits = digits.removesuffix("k")
    if not digits.isdecimal() or int(digits) < 1:
        raise ConfigurationError(f"--context={text!r} is not allowed: it must be a number of tokens, 1 or more.")
    return int(digits) * scale
