"""Show which GPU pools fit, what they cost and what `up` would change; touch nothing."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from deployment.commands import options as shared
from deployment.commands.warnings import warn
from deployment.report import bound, changes_json, idle_cost, offer_json, show_bound, show_changes

if TYPE_CHECKING:
    import argparse

    from deployment.pools import Offer
    from deployment.session import Session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `plan`."""
    shared.add_json(parser)
    shared.add_prune_env(parser)


def run(session: Session, options: argparse.Namespace) -> int:
    """Show the plan."""
    terminal, deploy = session.terminal, session.deploy
    if deploy.api_key is None:
        terminal.say("RUNPOD_API_KEY is not set: nothing is compared, and the prices are those shipped with the kit.")
    with nullcontext() if deploy.api_key is None else session.api() as api:
        offered = session.offered(api)
        reached = api if session.prices == "live" else None
        live = session.find(reached) if reached else None
        chosen: tuple[Offer, ...] = ()
        changes = None
        try:
            chosen = session.choose(offered, live)
        finally:  # the table is the answer even where nothing fits
            session.show_offers(offered, chosen)
            picture = {
                "prices": session.prices,
                "pools": [offer_json(offer, chosen, cached=deploy.cached_model) for offer in offered],
                "chosen": [offer.pool.id for offer in chosen],
                "max_usd_per_hour": bound(deploy, chosen),
                "usd_per_idle_wait": idle_cost(deploy, chosen),
                "endpoint_id": None if live is None else live.id,
                "changes": None,
            }
            if not chosen:
                terminal.result(picture)
        show_bound(terminal, deploy, chosen)
        if deploy.image is None:
            terminal.say("DEPLOY_IMAGE is not set: `make deploy` needs it.")
        else:
            warn(session, chosen, live)
            if reached:
                desired = session.desired(chosen, live, prune=options.prune_env)
                changes = session.changes(desired, live, chosen)
                show_changes(terminal, changes, create=live is None, name=deploy.name)
    terminal.result({**picture, "changes": None if changes is None else changes_json(changes)})
    return 0
