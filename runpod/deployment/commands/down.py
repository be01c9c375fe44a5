"""Delete the endpoint, and with --volume its network volume; check that nothing is left that costs."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from deployment import env_file
from deployment.commands import options as shared
from deployment.errors import ApiError, DeployError
from deployment.report import VOLUME_USD_PER_GB_MONTH

if TYPE_CHECKING:
    import argparse

    from deployment.answers import NetworkVolume
    from deployment.rest_api import RunpodApi
    from deployment.session import Session

GONE_WITHIN_S = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `down`."""
    shared.add_changing(parser)
    parser.add_argument("--volume", action="store_true", help="delete DEPLOY_NETWORK_VOLUME too, with its files")


def run(session: Session, options: argparse.Namespace) -> int:
    """Delete every endpoint of the name: two deploys at once may have made two."""
    terminal, name = session.terminal, session.deploy.name
    session.may_change = True
    with session.api() as api, session.alone():
        live = api.endpoints_called(name)
        volumes = _existing_volumes(session, api)
        rows = [("endpoint", f"{item.name} ({item.id}), queue, releases and {_running(api, item.id)}") for item in live]
        if options.volume:
            rows += [("network volume", _about(volume) + ", with all its files") for volume in volumes]
        if rows:
            terminal.table("Delete", ("what", ""), rows)
        else:
            terminal.say(f"There is no endpoint called {name!r}: nothing to delete.")
        if options.dry_run:
            terminal.say("Dry run: nothing was deleted.")
            terminal.result({"deleted": None, "dry_run": True})
            return 0
        if rows:
            terminal.ask("Delete this? It cannot be undone.")
        for item in live:
            session.if_interrupted = f"Endpoint {item.name} ({item.id}) may be left: run `make undeploy` again."
            api.delete_endpoint(item.id)
        if live:
            _wait_until_gone(api, name)
            if env_file.remove({item.base_url for item in live if item.base_url}):
                terminal.say(f"{env_file.ENV_FILE} pointed at it and is removed too.")
        left = []
        for volume in volumes:
            if options.volume:
                session.if_interrupted = (
                    f"The endpoint is gone; {_about(volume)} may be left: run it again with --volume."
                )
                api.delete_network_volume(volume.id)
            else:
                left.append(_about(volume))
        session.if_interrupted = ""
        for about in left:
            terminal.warn(f"{about} is left and goes on costing: `make undeploy ARGS=--volume` deletes it too.")
        if not left:
            terminal.say("Nothing is left that costs money.")
        terminal.result(
            {"deleted": live[0].id if live else None, "all_deleted": [item.id for item in live], "left": left}
        )
    return 0


def _running(api: RunpodApi, endpoint_id: str) -> str:
    try:
        return f"{len(api.workers(endpoint_id).workers)} running workers"
    except DeployError:  # no reason not to delete it
        return "its workers"


def _existing_volumes(session: Session, api: RunpodApi) -> list[NetworkVolume]:
    found = []
    for volume in session.deploy.network_volume:
        try:
            found.append(api.network_volume(volume))
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
    return found


def _about(volume: NetworkVolume) -> str:
    month = f"${volume.size * VOLUME_USD_PER_GB_MONTH:.2f}"
    return f"network volume {volume.name} ({volume.id}, {volume.size:g} GB, about {month} a month)"


def _wait_until_gone(api: RunpodApi, name: str) -> None:
    deadline = time.monotonic() + GONE_WITHIN_S
    while api.endpoints_called(name):
        if time.monotonic() > deadline:
            raise DeployError(
                f"Endpoint {name} is still listed {GONE_WITHIN_S:.0f} s after RunPod said it was deleted."
            )
        time.sleep(1.0)
