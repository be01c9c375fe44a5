"""What somebody should know before an endpoint is made or changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from client.variables import read_env_file
from deployment import status
from deployment.errors import DeployError
from worker import official

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from deployment.answers import Endpoint
    from deployment.pools import Offer
    from deployment.session import Session


def warn(session: Session, chosen: Sequence[Offer], live: Endpoint | None) -> None:
    """Show every warning that applies."""
    for warning in (*_warnings(session, chosen), no_stock(chosen)):
        if warning:
            session.terminal.warn(warning)
    if live is not None and (hint := status.scaled_down(live, session.deploy.workers_max)):
        session.terminal.warn(hint)


def refuse_without_stock(chosen: Sequence[Offer], *, anyway: bool) -> None:
    """Raise DeployError if no worker could be placed now: an endpoint that waits is nothing that was asked for."""
    missing = no_stock(chosen)
    if missing and not anyway:
        raise DeployError(
            f"{missing} Try again later, name other pools in DEPLOY_GPU_POOLS or other DEPLOY_DATA_CENTERS, or let the "
            "endpoint wait for a GPU with --anyway (make: ARGS=--anyway)."
        )


def no_stock(chosen: Sequence[Offer]) -> str | None:
    """Return a sentence if nothing of the chosen pools is in stock."""
    if not chosen or any(offer.pool.available for offer in chosen):
        return None
    count = f"{chosen[0].count} GPU{'s' if chosen[0].count > 1 else ''}"
    pools = ", ".join(offer.pool.id for offer in chosen)
    return f"No host with {count} of {pools}, CUDA and the data centres that are asked for is free now."


def _warnings(session: Session, chosen: Sequence[Offer]) -> Iterator[str]:
    deploy, serve = session.deploy, session.config.serve
    image = deploy.image or ""
    if "@" not in image and (":" not in image.rpartition("/")[2] or image.endswith(":latest")):
        yield f"DEPLOY_IMAGE={image} is not pinned: hosts keep an old one; use a tag of its own or a digest."
    if deploy.hf_secret is None and serve.hf_token is None and chosen[0].plan.gated:
        yield (
            f"{chosen[0].plan.checkpoint} is gated: accept its licence on Hugging Face, and set HF_TOKEN or "
            "DEPLOY_HF_SECRET."
        )
    yield from official.answers(read_env_file(".env"))
    if deploy.mode == "load-balancer" and "SERVE_API_KEY" in session.config.worker_variables:
        yield "SERVE_API_KEY stays here: behind a load balancer callers send RUNPOD_API_KEY, and RunPod checks it."
    if deploy.hf_secret is None and serve.hf_token is not None:
        yield "HF_TOKEN travels as plain text: make it a secret in RunPod's console and name that in DEPLOY_HF_SECRET."
    if deploy.network_volume:
        yield (
            "The worker is not root (user 10001): if the volume is closed to it, its log says so, and the weights go "
            "to the container's disk, which has room for them. From a pod, `chmod -R a+rwX` opens the volume."
        )
