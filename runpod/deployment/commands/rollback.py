"""Go back to the image and settings of the release before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deployment import releases, spec
from deployment.commands import options as shared
from deployment.commands.apply import finish, send
from deployment.errors import DeployError
from deployment.masking import secret_values
from deployment.report import changes_json, show_changes
from deployment.spec import Change

if TYPE_CHECKING:
    import argparse

    from deployment.session import Session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `rollback`."""
    shared.add_releasing(parser)


def run(session: Session, options: argparse.Namespace) -> int:
    """Take the last change back."""
    terminal = session.terminal
    session.may_change = True
    with session.api() as api:
        with session.alone():
            live = session.must_find(api)
            entries = releases.last_change(api.releases(live.id).releases)
            if entries is None:
                raise DeployError(f"Endpoint {live.name} has no release to go back to: its first one is live.")
            before = releases.undo(entries, live.body)
            models = before.pop(releases.MODELS, None)
            terminal.redact.learn(secret_values(before.get("env") or {}))
            changes = spec.compare(before, live.body)
            if models is not None:
                changes.append(Change("cached model", "", ", ".join(models) or "none"))
            body = spec.patch(before, live.body)
            show_changes(terminal, changes, create=False, name=live.name)
            result = {"endpoint_id": live.id, "changes": changes_json(changes)}
            if options.dry_run:
                terminal.say("Dry run: nothing was sent.")
                terminal.result({**result, "dry_run": True})
                return 0
            if changes:
                terminal.ask(f"Take endpoint {live.name} back to the release before?")
            endpoint = send(session, api, body, live)
            if models is not None:
                session.cache(or_else="set it in RunPod's console").set(endpoint, models)
        terminal.say("Your .env still says what was taken back: change it before the next `make deploy`.")
        answer = finish(session, api, endpoint, wait=not options.no_wait)
        session.if_interrupted = ""
        terminal.result({**result, **answer})
    return 0
