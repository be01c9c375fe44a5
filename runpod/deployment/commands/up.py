"""Create the endpoint or change it to what the settings say, wait for a worker, and ask it a question."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deployment import spec
from deployment.commands import options as shared
from deployment.commands.apply import finish, send, without_twin
from deployment.commands.warnings import refuse_without_stock, warn
from deployment.graphql_api import reference
from deployment.report import bound, changes_json, idle_cost, show_bound, show_changes

if TYPE_CHECKING:
    import argparse

    from deployment.session import Session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `up`."""
    shared.add_releasing(parser)
    shared.add_prune_env(parser)
    parser.add_argument("--anyway", action="store_true", help="go on although no GPU of the pools is in stock")


def run(session: Session, options: argparse.Namespace) -> int:
    """Create or change the endpoint."""
    terminal, deploy = session.terminal, session.deploy
    session.may_change = True
    with session.api() as api:
        with session.alone():
            live = session.find(api)
            offered = session.offered(api)
            chosen = session.choose(offered, live)
            desired = session.desired(chosen, live, prune=options.prune_env)
            session.show_offers(offered, chosen)
            warn(session, chosen, live)
            changes = session.changes(desired, live, chosen)
            body = desired if live is None else spec.patch(desired, live.body)
            show_changes(terminal, changes, create=live is None, name=deploy.name)
            show_bound(terminal, deploy, chosen)
            result = {
                "endpoint_id": None if live is None else live.id,
                "created": live is None,
                "changes": changes_json(changes),
                "max_usd_per_hour": bound(deploy, chosen),
                "usd_per_idle_wait": idle_cost(deploy, chosen),
            }
            if options.dry_run:
                terminal.say("Dry run: nothing was sent.")
                terminal.result({**result, "created": False, "dry_run": True})
                return 0
            if changes:
                refuse_without_stock(chosen, anyway=options.anyway)
                terminal.ask(f"{'Create' if live is None else 'Change'} endpoint {deploy.name}?")
            endpoint = send(session, api, body, live)
            if deploy.cached_model:
                session.cache().set(endpoint, [reference(str(chosen[0].plan.checkpoint))])
        answer = finish(session, api, endpoint, wait=not options.no_wait)
        if live is None:
            without_twin(session, api, endpoint)  # one that was listed later than it was made
        session.if_interrupted = ""
        terminal.result({**result, **answer, "endpoint_id": endpoint.id})
    return 0
