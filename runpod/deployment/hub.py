"""What RunPod's Hub reads in `.runpod/`, written from the settings, the plan and `runpod/`.

The Hub looks for Dockerfile and handler.py in `.runpod/`, then at the root, where the README is. They are files and not
links, since BuildKit does not follow a link out of the folder (docker/compose#7397).
Format: https://docs.runpod.io/hub/publishing-guide.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from client.settings import DEFAULT_MODEL
from deployment import pools as gpu_pools
from deployment.settings import DeploySettings
from deployment.spec import CUDA, ROOM_GB
from serving.hardware.rented import POOLS
from serving.launch import for_others
from serving.settings import ServeSettings
from worker.settings import WorkerSettings

if TYPE_CHECKING:
    from client.variables import Variables

Json = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".runpod"
HANDLER = '''"""Where RunPod's Hub looks for a handler: the worker's is `runpod/handler.py`, and this runs it."""

import runpy
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "runpod"
sys.path.insert(0, str(FOLDER))
runpy.run_path(str(FOLDER / "handler.py"), run_name="__main__")
'''
# What somebody who deploys from the Hub may want to set; the second element: only under "Advanced".
INPUTS = (
    ("model", False), ("context", False), ("precision", False), ("text_only", False), ("tools", False),
    ("max_model_len", True), ("max_num_seqs", True), ("gpu_memory_utilization", True), ("extra_args", True),
)  # fmt: skip
# The platform, or the endpoint's type, settles these.
NOT_WORKER_INPUTS = frozenset({"mode", "volume", "port", "port_health"})
TEST_MODEL = "unsloth/gemma-3-270m-it"  # small, for a test that is about the image; not gated, for there is no token
TEST_TIMEOUT_MS = 600_000  # a cold start is part of it


def fitting(model: str) -> list[gpu_pools.Offer]:
    """Return the pools that a model fits with one GPU and default settings, cheapest first."""
    settled = for_others(ServeSettings.model_construct(model=model), "published")
    return [offer for offer in gpu_pools.offers(POOLS, settled, 1) if offer.fits]


def hub() -> Json:
    """Return the content of hub.json."""
    offers = fitting(DEFAULT_MODEL)
    disk = max(gpu_pools.weight_gb(offer.plan) for offer in offers) * 1.2 + ROOM_GB
    return {
        "title": "Gemma 3 27B on vLLM",
        "description": "Serve Gemma 3 with vLLM: OpenAI-compatible, whole-event streaming, true error statuses.",
        "type": "serverless",
        "category": "language",
        "config": {
            "runsOn": "GPU",
            "containerDiskInGb": math.ceil(disk / 5) * 5,
            "gpuCount": 1,
            "gpuIds": ",".join(offer.pool.id for offer in offers),
            "allowedCudaVersions": [CUDA],
            "presets": [
                {
                    "name": f"Gemma 3 27B, {offer.plan.precision}, for {offer.pool.id}",
                    "defaults": {
                        "SERVE_MODEL": DEFAULT_MODEL,
                        "SERVE_PRECISION": str(offer.plan.precision),
                    },
                }
                for offer in offers
            ],
            "env": [
                *(_input(ServeSettings, field, advanced=advanced) for field, advanced in INPUTS),
                *(
                    _input(WorkerSettings, field, advanced=True)
                    for field in WorkerSettings.model_fields
                    if field not in NOT_WORKER_INPUTS
                ),
                {
                    "key": "HF_TOKEN",
                    "input": {
                        "name": "Hugging Face token",
                        "type": "string",
                        "description": "for gated models; better a secret: {{ RUNPOD_SECRET_hf_token }}",
                        "default": "",
                    },
                },
                {"key": "WORKER_MODE", "value": WorkerSettings.model_fields["mode"].default},
                {"key": "RUNPOD_INIT_TIMEOUT", "value": str(DeploySettings.model_fields["init_timeout"].default)},
            ],
        },
    }


def tests() -> Json:
    """Return the content of tests.json: one question, on the cheapest card that fits."""
    card = next(offer.card for offer in fitting(TEST_MODEL) if offer.hourly is not None)
    question = [{"role": "user", "content": "What is the capital of France? Answer with one word."}]
    return {
        "tests": [
            {
                "name": "answers_a_question",
                "input": {"messages": question, "sampling_params": {"max_tokens": 16, "temperature": 0}},
                "timeout": TEST_TIMEOUT_MS,
            }
        ],
        "config": {
            "gpuTypeId": card.id,
            "gpuCount": 1,
            "env": [
                {"key": "SERVE_MODEL", "value": TEST_MODEL},
                {"key": "WORKER_MAX_CONCURRENCY", "value": "1"},
                {"key": "RUNPOD_INIT_TIMEOUT", "value": str(DeploySettings.model_fields["init_timeout"].default)},
            ],
            "allowedCudaVersions": [CUDA],
        },
    }


def _input(settings: type[Variables], field: str, *, advanced: bool) -> Json:
    info = settings.model_fields[field]
    kinds = get_args(info.annotation) or (info.annotation,)
    words = [kind for kind in kinds if isinstance(kind, str)]
    default = info.default
    entry: Json = {
        "name": field.replace("_", " ").capitalize(),
        "description": (info.description or "").replace("`", ""),
        "type": "string",
        "default": "" if default is None or default == () else default,
        "required": False,
        "advanced": advanced,
    }
    if info.annotation is bool:
        entry |= {"type": "boolean", "trueValue": "1", "falseValue": "0"}
    elif words and len(words) == len(kinds):
        entry["options"] = [{"label": word, "value": word} for word in words]
    elif {int, float} & set(kinds) and not words and default is not None:
        entry |= {"type": "number", "default": int(default) if default == int(default) else default}
    return {"key": settings.variable(field), "input": entry}


def files() -> dict[str, str]:
    """Return what belongs into `.runpod/`: each file's name and text."""
    return {
        "hub.json": json.dumps(hub(), indent=2) + "\n",
        "tests.json": json.dumps(tests(), indent=2) + "\n",
        "handler.py": HANDLER,
        **{name: (ROOT / "runpod" / name).read_text("utf-8") for name in ("Dockerfile", "Dockerfile.dockerignore")},
    }


def write() -> None:
    """Write them, in place of whatever is there."""
    for name, text in files().items():
        path = FOLDER / name
        path.unlink(missing_ok=True)  # a link would be followed
        path.write_text(text, encoding="utf-8")
