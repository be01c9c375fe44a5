"""The six commands: what each reads, shows, asks and does, in that order."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import endpoint_releases
import endpoint_spec
import endpoint_status
import gpu_pools
import rollout
from cached_model import CachedModel, reference
from deploy_errors import DeployError, Unreachable
from deploy_report import (
    VOLUME_USD_PER_GB_MONTH,
    bound,
    changes_json,
    offer_json,
    show_bound,
    show_changes,
    show_offers,
    show_status,
    usd,
)
from endpoint_spec import Change
from masking import secret_values
from runpod_api import RunpodApi
from serving.errors import ConfigurationError
from serving.model import resolve
from serving.plan import Wishes

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from deploy_settings import Wanted
    from gpu_pools import Offer
    from screen import Screen

Json = dict[str, Any]

WATCH_S = 5.0
GONE_WITHIN_S = 30.0


class Session:
    """Hold what a command works with. `standing` says, at any moment, what an interruption would leave behind."""

    def __init__(self, wanted: Wanted, screen: Screen) -> None:
        self.wanted = wanted
        self.deploy = wanted.deploy
        self.screen = screen
        self.standing = ""

    @property
    def key(self) -> str:
        """Return the API key. Raises ConfigurationError if there is none."""
        if self.deploy.api_key is None:
            raise ConfigurationError(
                "RUNPOD_API_KEY is not set: make a key in RunPod's console (Settings, API Keys) and put it into .env."
            )
        return self.deploy.api_key.get_secret_value()

    def api(self) -> RunpodApi:
        """Open the API."""
        return RunpodApi(self.deploy.api_url, self.key, self.screen.redact)

    def find(self, api: RunpodApi) -> Json | None:
        """Return the endpoint of our name, if there is one; its secrets are kept off the screen from here on."""
        live = api.find_endpoint(self.deploy.name)
        if live is not None:
            self.screen.redact.learn(secret_values(live.get("env") or {}))
        return live

    def must_find(self, api: RunpodApi) -> Json:
        """Return the endpoint of our name. Raises DeployError if there is none."""
        live = self.find(api)
        if live is None:
            raise DeployError(f"There is no endpoint called {self.deploy.name!r}: `make deploy` creates it.")
        return live

    def offered(self, pools: Sequence[gpu_pools.Pool]) -> list[Offer]:
        """Plan the wished model on each pool, cheapest first."""
        model = resolve(self.wanted.model)
        return gpu_pools.offers(pools, model, Wishes.from_settings(self.wanted.serve), self.deploy.gpu_count)

    def choose(self, offered: Sequence[Offer], live: Json | None) -> tuple[Offer, ...]:
        """Choose the pools to deploy on."""
        named = None if self.deploy.gpu_pools == "auto" else self.deploy.gpu_pools
        on = ((live or {}).get("gpu") or {}).get("pools") or ()
        return gpu_pools.choose(offered, named, on)

    def show_offers(self, offered: Sequence[Offer], chosen: Sequence[Offer], prices: str) -> None:
        """Show the table of pools."""
        show_offers(self.screen, offered, chosen, prices=prices, cached=self.deploy.cached_model)

    def changes(self, wish: Json, live: Json | None, offers: Sequence[Offer]) -> list[Change]:
        """Return what `up` would change, the cached model included."""
        changes = endpoint_spec.compare(wish, live)
        if self.deploy.cached_model:
            model = reference(str(offers[0].plan.checkpoint))
            stored = [] if live is None else self.cache().current(live["id"])
            if stored != [model]:
                changes.append(Change("cached model", ", ".join(stored), model))
        return changes

    def cache(self) -> CachedModel:
        """Return the access to the cached model."""
        return CachedModel(self.deploy.graphql_url, self.key, self.screen.redact)


def plan(session: Session, options: argparse.Namespace) -> int:
    """Show which GPU pools fit, what they cost and what `up` would change; touch nothing."""
    screen, deploy = session.screen, session.deploy
    pools: Sequence[gpu_pools.Pool] = gpu_pools.POOLS
    prices, live, note = "shipped prices", None, ""
    with nullcontext() if deploy.api_key is None else session.api() as api:
        try:
            if api is None:
                note = "RUNPOD_API_KEY is not set: prices are those shipped with the kit, and nothing is compared."
            else:
                pools, prices = gpu_pools.live_pools(api.gpu_types()), "live prices"
                live = session.find(api)
        except Unreachable as error:
            note, api = f"{error} Prices are those shipped with the kit, and nothing is compared.", None
    offered = session.offered(pools)
    chosen: tuple[Offer, ...] = ()
    try:
        chosen = session.choose(offered, live)
    finally:  # the table is the answer even where nothing fits
        session.show_offers(offered, chosen, prices)
    if note:
        screen.say(note)
    show_bound(screen, deploy, chosen)
    changes = None
    if deploy.image is None:
        screen.say("DEPLOY_IMAGE is not set: `make deploy` needs it.")
    elif api is not None or deploy.api_key is None:
        _warn(session, chosen)
        changes = session.changes(endpoint_spec.desired(session.wanted, chosen), live, chosen) if api else None
        if changes is not None:
            show_changes(screen, changes, create=live is None, name=deploy.name)
    screen.result(
        {
            "prices": prices.split()[0],
            "pools": [offer_json(offer, chosen=offer in chosen, cached=deploy.cached_model) for offer in offered],
            "chosen": [offer.pool.id for offer in chosen],
            "max_usd_per_hour": bound(deploy, chosen),
            "endpoint_id": None if live is None else live["id"],
            "changes": None if changes is None else changes_json(changes),
        }
    )
    return 0


def up(session: Session, options: argparse.Namespace) -> int:
    """Create the endpoint or change it to what the settings say, wait for a worker, and ask it a question."""
    screen, deploy = session.screen, session.deploy
    with session.api() as api:
        live = session.find(api)
        offered = session.offered(gpu_pools.live_pools(api.gpu_types()))
        chosen = session.choose(offered, live)
        wish = endpoint_spec.desired(session.wanted, chosen)
        _check_volumes(session, api)
        session.show_offers(offered, chosen, "live prices")
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
        releases = [release for release in api.releases(live["id"])["releases"] if release["diff"]]
        if not releases:
            raise DeployError(f"Endpoint {live['name']} has no release to go back to: its first one is live.")
        for release in releases[:1]:
            for entry in release["diff"]:
                for value in (entry["old"], entry["new"]):
                    if isinstance(value, dict):
                        screen.redact.learn(secret_values({name: str(text) for name, text in value.items()}))
        before = endpoint_releases.undo(releases[0], live)
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
        volumes = [api.network_volume(volume) for volume in deploy.network_volume]
        rows = []
        if live is not None:
            count = api.workers(live["id"])["summary"]["total"]
            rows.append(("endpoint", f"{live['name']} ({live['id']}), {count} workers, its queue and its releases"))
        if options.volume:
            rows += [("network volume", _about(volume) + ", with all its files") for volume in volumes]
        if rows:
            screen.table("Delete", ("what", ""), rows)
        else:
            screen.say(f"There is no endpoint called {deploy.name!r}: nothing to delete.")
        if options.dry_run:
            screen.say("Dry run: nothing was deleted.")
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
        f"Endpoint {name} ({endpoint['id']}) exists and is as it should be: `make deploy` again goes on from here, "
        "`make undeploy` removes it."
    )
    return endpoint


def _finish(session: Session, api: RunpodApi, endpoint: Json, *, wait: bool) -> Json:
    """Wait, ask, and write the file for the application; return what machines are told."""
    screen = session.screen
    url = endpoint_status.base_url(endpoint) or endpoint_status.base_url(api.endpoint(endpoint["id"]))
    if url is None:
        raise DeployError("RunPod gave no address for the endpoint: see it in RunPod's console.")
    model = session.wanted.served_name
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


def _about(volume: Json) -> str:
    month = usd(volume["size"] * VOLUME_USD_PER_GB_MONTH)
    return f"network volume {volume['name']} ({volume['id']}, {volume['size']} GB, about {month} a month)"


def _wait_until_gone(api: RunpodApi, name: str) -> None:
    deadline = time.monotonic() + GONE_WITHIN_S
    while api.find_endpoint(name) is not None:
        if time.monotonic() > deadline:
            raise DeployError(
                f"Endpoint {name} is still listed {GONE_WITHIN_S:.0f} s after RunPod said it was deleted."
            )
        time.sleep(1.0)
