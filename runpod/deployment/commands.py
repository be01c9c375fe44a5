"""The six commands: each reads, shows, asks and does, in that order."""

from __future__ import annotations

import time
from contextlib import nullcontext
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from deployment import releases as endpoint_releases
from deployment import rollout
from deployment import spec as endpoint_spec
from deployment import status as endpoint_status
from deployment.errors import ApiError, DeployError
from deployment.masking import secret_values
from deployment.report import (
    VOLUME_USD_PER_GB_MONTH,
    bound,
    changes_json,
    offer_json,
    show_bound,
    show_changes,
    show_status,
)
from serving.errors import ConfigurationError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from deployment.pools import Offer
    from deployment.rest_api import RunpodApi
    from deployment.session import Session

Json = dict[str, Any]

WATCH_S = 5.0
GONE_WITHIN_S = 30.0


def plan(session: Session, options: argparse.Namespace) -> int:
    """Show which GPU pools fit, what they cost and what `up` would change; touch nothing."""
    screen, deploy = session.screen, session.deploy
    if deploy.api_key is None:
        screen.say("RUNPOD_API_KEY is not set: nothing is compared, and the prices are those shipped with the kit.")
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
            "pools": [offer_json(offer, chosen=offer in chosen, cached=deploy.cached_model) for offer in offered],
            "chosen": [offer.pool.id for offer in chosen],
            "max_usd_per_hour": bound(deploy, chosen),
            "endpoint_id": None if live is None else live["id"],
            "changes": None,
        }
        if not chosen:
            screen.result(picture)
    show_bound(screen, deploy, chosen)
    if deploy.image is None:
        screen.say("DEPLOY_IMAGE is not set: `make deploy` needs it.")
    else:
        _warn(session, chosen)
        if reached:
            changes = session.changes(endpoint_spec.desired(session.wanted, chosen), live, chosen)
            show_changes(screen, changes, create=live is None, name=deploy.name)
    screen.result({**picture, "changes": None if changes is None else changes_json(changes)})
    return 0


def up(session: Session, options: argparse.Namespace) -> int:
    """Create the endpoint or change it to what the settings say, wait for a worker, and ask it a question."""
    screen, deploy = session.screen, session.deploy
    with session.api() as api:
        live = session.find(api)
        offered = session.offered(api)
        chosen = session.choose(offered, live)
        wish = endpoint_spec.desired(session.wanted, chosen)
        _check_volumes(session, api)
        session.show_offers(offered, chosen)
        _warn(session, chosen)
        changes = session.changes(wish, live, chosen)
        body = wish if live is None else endpoint_spec.patch(wish, live)
        show_changes(screen, changes, create=live is None, name=deploy.name)
        show_bound(screen, deploy, chosen)
        result = {
            "endpoint_id": None if live is None else live["id"],
            "created": live is None,
            "changes": changes_json(changes),
            "max_usd_per_hour": bound(deploy, chosen),
        }
        if options.dry_run:
            screen.say("Dry run: nothing was sent.")
            screen.result({**result, "created": False, "dry_run": True})
            return 0
        if changes:
            screen.ask(f"{'Create' if live is None else 'Change'} endpoint {deploy.name}?")
        endpoint = _send(session, api, body, live)
        if deploy.cached_model:
            session.cache().set(endpoint, str(chosen[0].plan.checkpoint))
        answer = _finish(session, api, endpoint, wait=not options.no_wait)
        session.standing = ""
        screen.result({**result, **answer, "endpoint_id": endpoint["id"]})
    return 0


def status(session: Session, options: argparse.Namespace) -> int:
    """Show workers, jobs, release, errors and cost on one screen."""
    with session.api() as api:
        while True:
            endpoint = session.must_find(api)
            picture = endpoint_status.read(api, endpoint)
            if options.watch:
                session.screen.clear()
            show_status(session.screen, picture)
            session.screen.result(picture)
            if not options.watch:
                return 0
            time.sleep(WATCH_S)


def logs(session: Session, options: argparse.Namespace) -> int:
    """Stream a worker's log until Ctrl-C."""
    if not 0 <= options.tail <= 5000:
        raise ConfigurationError(f"--tail {options.tail} is not allowed: it must be a number of lines, 0 to 5000.")
    with session.api() as api:
        endpoint = session.must_find(api)
        workers = api.workers(endpoint["id"])["workers"]
        if options.worker is not None:
            workers = [worker for worker in workers if worker["id"] == options.worker]
        if not workers:
            which = f"No worker {options.worker!r} runs" if options.worker else "No worker runs"
            raise DeployError(f"{which}: RunPod keeps a log only while its worker lives; a request starts one.")
        worker = min(workers, key=lambda item: (item["isStale"], item["status"] in ("THROTTLED", "INITIALIZING")))
        session.screen.say(f"Worker {worker['id']} ({worker['status'].lower()})", "bold")
        for event in api.worker_log(endpoint["id"], worker["id"], tail=options.tail):
            session.screen.say(f"{event.get('ts', '')} {event.get('line', '')}".strip())
            session.screen.result(event)
    return 0


def rollback(session: Session, options: argparse.Namespace) -> int:
    """Go back to the image and settings of the release before."""
    screen = session.screen
    with session.api() as api:
        live = session.must_find(api)
        release = endpoint_releases.last_change(api.releases(live["id"])["releases"])
        if release is None:
            raise DeployError(f"Endpoint {live['name']} has no release to go back to: its first one is live.")
        before = endpoint_releases.undo(release, live)
        screen.redact.learn(secret_values(before.get("env") or {}))
        changes = endpoint_spec.compare(before, live)
        body = endpoint_spec.patch(before, live)
        show_changes(screen, changes, create=False, name=live["name"])
        result = {"endpoint_id": live["id"], "changes": changes_json(changes)}
        if options.dry_run:
            screen.say("Dry run: nothing was sent.")
            screen.result({**result, "dry_run": True})
            return 0
        if changes:
            screen.ask(f"Take endpoint {live['name']} back to the release before?")
        endpoint = _send(session, api, body, live)
        screen.say("Your .env still says what was taken back: change it before the next `make deploy`.")
        answer = _finish(session, api, endpoint, wait=not options.no_wait)
        session.standing = ""
        screen.result({**result, **answer})
    return 0


def down(session: Session, options: argparse.Namespace) -> int:
    """Delete the endpoint, and with --volume its network volume; check that nothing is left that costs."""
    screen, deploy = session.screen, session.deploy
    with session.api() as api:
        live = session.find(api)
        volumes = _existing_volumes(session, api)
        rows = []
        if live is not None:
            count = api.workers(live["id"])["summary"]["total"]
            rows.append(("endpoint", f"{live['name']} ({live['id']}), queue, releases and {count} running workers"))
        if options.volume:
            rows += [("network volume", _about(volume) + ", with all its files") for volume in volumes]
        if rows:
            screen.table("Delete", ("what", ""), rows)
        else:
            screen.say(f"There is no endpoint called {deploy.name!r}: nothing to delete.")
        if options.dry_run:
            screen.say("Dry run: nothing was deleted.")
            screen.result({"deleted": None, "dry_run": True})
            return 0
        if rows:
            screen.ask("Delete this? It cannot be undone.")
        if live is not None:
            session.standing = f"Endpoint {live['name']} ({live['id']}) may be left: run `make undeploy` again."
            api.delete_endpoint(live["id"])
            _wait_until_gone(api, deploy.name)
            if rollout.remove_env_file(endpoint_status.base_url(live)):
                screen.say(f"{rollout.ENV_FILE} pointed at it and is removed too.")
        left = []
        for volume in volumes:
            if options.volume:
                session.standing = f"The endpoint is gone; {_about(volume)} may be left: run it again with --volume."
                api.delete_network_volume(volume["id"])
            else:
                left.append(_about(volume))
        session.standing = ""
        for item in left:
            screen.warn(f"{item} is left and goes on costing: `make undeploy ARGS=--volume` deletes it too.")
        if not left:
            screen.say("Nothing is left that costs money.")
        screen.result({"deleted": None if live is None else live["id"], "left": left})
    return 0


COMMANDS: dict[str, Callable[[Session, argparse.Namespace], int]] = {
    "plan": plan, "up": up, "status": status, "logs": logs, "rollback": rollback, "down": down,
}  # fmt: skip


def _send(session: Session, api: RunpodApi, body: Json, live: Json | None) -> Json:
    """Create or change the endpoint, and keep `standing` true all the way."""
    name = session.deploy.name
    if live is None:
        session.standing = (
            f"Endpoint {name} may have been created: `make deploy` again finds it by its name, "
            "`make undeploy` removes it."
        )
        try:
            endpoint = api.create_endpoint(body)
        except DeployError as error:
            if 400 <= getattr(error, "status", 500) < 500:
                session.standing = "Nothing was created."
            raise
        session.screen.say(f"Created endpoint {name} ({endpoint['id']}).", "green")
    elif body:
        session.standing = f"Endpoint {name} has its old or its new settings, whole: `make deploy` again settles it."
        try:
            endpoint = api.update_endpoint(live["id"], body)
        except DeployError as error:
            if 400 <= getattr(error, "status", 500) < 500:
                session.standing = f"Endpoint {name} is as it was before."
            raise
        session.screen.say(f"Changed endpoint {name} ({endpoint['id']}).", "green")
    else:
        endpoint = live
    session.standing = (
        f"Endpoint {name} ({endpoint['id']}) exists with these settings: `make deploy` again goes on from here, "
        "`make undeploy` removes it."
    )
    return endpoint


def _finish(session: Session, api: RunpodApi, endpoint: Json, *, wait: bool) -> Json:
    """Wait, ask, and write the file for the application; return what machines are told."""
    screen = session.screen
    url = endpoint_status.base_url(endpoint) or endpoint_status.base_url(api.endpoint(endpoint["id"]))
    if url is None:
        raise DeployError("RunPod gave no address for the endpoint: see it in RunPod's console.")
    model = (endpoint.get("env") or {}).get("SERVE_SERVED_MODEL_NAME") or session.wanted.served_name
    answer = None
    if wait:
        rollout.wait_until_ready(api, endpoint, init_timeout=session.deploy.init_timeout, screen=screen)
        screen.say(f"Question: {rollout.QUESTION}")
        answer = rollout.ask(url, session.key, model)
        screen.say(f"Answer:   {answer}")
    rollout.write_env_file(url, session.key, model)
    screen.say(f"Wrote {rollout.ENV_FILE}: LLM_BASE_URL={url}, LLM_API_KEY, LLM_MODEL={model}.")
    return {"base_url": url, "model": model, "answer": answer}


def _warn(session: Session, chosen: Sequence[Offer]) -> None:
    deploy, serve, screen = session.deploy, session.wanted.serve, session.screen
    image = deploy.image or ""
    if "@" not in image and (":" not in image.rpartition("/")[2] or image.endswith(":latest")):
        screen.warn(f"DEPLOY_IMAGE={image} is not pinned: hosts keep an old one; use a tag of its own or a digest.")
    if deploy.hf_secret is None and serve.hf_token is None and chosen[0].plan.gated:
        screen.warn(
            f"{chosen[0].plan.checkpoint} is gated: accept its licence on Hugging Face, and set HF_TOKEN or "
            "DEPLOY_HF_SECRET."
        )
    if deploy.mode == "load-balancer" and "SERVE_API_KEY" in session.wanted.travelling:
        screen.warn(
            "SERVE_API_KEY stays here: behind a load balancer callers send RUNPOD_API_KEY, and RunPod checks it."
        )
    if deploy.hf_secret is None and serve.hf_token is not None:
        screen.warn(
            "HF_TOKEN travels as plain text: make it a secret in RunPod's console and name that in DEPLOY_HF_SECRET."
        )


def _check_volumes(session: Session, api: RunpodApi) -> None:
    centers = session.deploy.data_centers
    for volume in map(api.network_volume, session.deploy.network_volume):
        if centers and volume["dataCenter"] not in centers:
            raise ConfigurationError(
                f"DEPLOY_DATA_CENTERS={','.join(centers)!r} is not allowed: it must name {volume['dataCenter']}, where "
                f"the network volume {volume['id']} is."
            )


def _existing_volumes(session: Session, api: RunpodApi) -> list[Json]:
    found = []
    for volume in session.deploy.network_volume:
        try:
            found.append(api.network_volume(volume))
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
    return found


def _about(volume: Json) -> str:
    month = f"${volume['size'] * VOLUME_USD_PER_GB_MONTH:.2f}"
    return f"network volume {volume['name']} ({volume['id']}, {volume['size']} GB, about {month} a month)"


def _wait_until_gone(api: RunpodApi, name: str) -> None:
    deadline = time.monotonic() + GONE_WITHIN_S
    while api.find_endpoint(name) is not None:
        if time.monotonic() > deadline:
            raise DeployError(
                f"Endpoint {name} is still listed {GONE_WITHIN_S:.0f} s after RunPod said it was deleted."
            )
        time.sleep(1.0)
