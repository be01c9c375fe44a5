"""What the model needs before it can be loaded: room for its weights, and access to them."""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from serving.checks.check import Check
from serving.engine.download import Download
from serving.model.hub_cache import Hub, cached_bytes, find_hub
from serving.units import GB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from serving.model.facts import Checkpoint, ModelFacts
    from serving.planning.plan import Plan
    from serving.settings import ServeSettings

TIMEOUT_S = 5.0


def checkpoint(
    settings: ServeSettings, model: ModelFacts, plan: Plan | None, *, ask_hub: bool = True
) -> Iterator[Check]:
    """Check the checkpoint that the plan takes: on disk already, or room for it and access to it.

    Without `ask_hub` only what this machine knows is checked: a gated model needs a token.
    """
    chosen = _chosen(model, plan)
    hub = find_hub(settings.engine_variables)
    if Path(chosen.name).is_dir():
        yield Check("weights", "ok", f"{chosen.name} is here")
    elif Path(chosen.name).is_absolute():
        yield Check("weights", "ok", f"{chosen.name} is made at the first start, in about a minute")
    elif to_download(model, plan, hub.cache) is None:
        yield Check("weights", "ok", f"{chosen.name} is in the cache")
    else:
        cached = cached_bytes(chosen.name, hub.cache)
        yield _room(chosen.weight_bytes - cached, cached, hub.cache)
        token = settings.hf_token.get_secret_value() if settings.hf_token else hub.stored_token
        yield from _access(chosen.name, token, hub, gated=chosen.gated, ask_hub=ask_hub)


def to_download(model: ModelFacts, plan: Plan | None, cache: Path) -> Download | None:
    """Return what vLLM will have to download for the plan, None if the weights are here or in Hugging Face's cache."""
    chosen = _chosen(model, plan)
    folder = Path(chosen.name)
    missing = 0 if folder.is_absolute() or folder.is_dir() else chosen.weight_bytes - cached_bytes(chosen.name, cache)
    return Download(chosen.name, chosen.weight_bytes, cache) if missing > chosen.weight_bytes * 0.02 else None


def _chosen(model: ModelFacts, plan: Plan | None) -> Checkpoint:
    return next((item for item in model.checkpoints if plan and item.name == plan.checkpoint), model.checkpoints[0])


def _room(missing: int, cached: int, folder: Path) -> Check:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    detail = f"{missing / GB:.0f} GB are to be downloaded into {folder}, {free / GB:.0f} GB are free"
    if cached:
        detail += f" ({cached / GB:.0f} GB are cached already)"
    return Check(
        "disk", "ok" if free > missing else "fail", detail, "HF_HOME=/a/larger/disk make serve", needs_machine=True
    )


def _access(name: str, token: str | None, hub: Hub, *, gated: bool, ask_hub: bool) -> Iterator[Check]:
    """Ask the hub for the model's configuration, as vLLM will; a network that is not there is said, not failed."""
    page = f"https://huggingface.co/{name}"
    if hub.offline:
        detail = f"{name} is not in {hub.cache}, or not all of it, and HF_HUB_OFFLINE forbids to download it"
        fix = "unset HF_HUB_OFFLINE (and TRANSFORMERS_OFFLINE), or point HF_HOME at the cache that has it"
        yield Check("access", "fail", detail, fix, needs_machine=True)
    elif gated and token is None:
        fix = f"accept the licence on {page}, then set HF_TOKEN"
        detail = f"{name} is gated, and HF_TOKEN is not set, nor does {hub.token_path} hold a token"
        yield Check("access", "fail", detail, fix, needs_machine=True)
    elif ask_hub:
        yield _asked(name, page, token, hub.endpoint)


def _asked(name: str, page: str, token: str | None, endpoint: str) -> Check:
    request = urllib.request.Request(f"{endpoint}/{name}/resolve/main/config.json", method="HEAD")
    if token is not None:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            return Check("access", "ok", f"{name} can be downloaded")
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            fix = f"accept the licence on {page} with the account of HF_TOKEN"
            return Check("access", "fail", f"the hub refuses {name} ({error.code})", fix, needs_machine=True)
        return Check("access", "unknown", f"the hub answers {error.code} for {name}")
    except (OSError, ValueError) as error:
        return Check("access", "unknown", f"the hub cannot be reached ({getattr(error, 'reason', error)}): offline?")
