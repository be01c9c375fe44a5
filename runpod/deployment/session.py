"""What a command works with: the settings, the screen, the API, and a word on what an interruption would leave."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deployment import pools as gpu_pools
from deployment import spec as endpoint_spec
from deployment.errors import ApiError, DeployError, Unreachable
from deployment.graphql_api import CachedModel, reference
from deployment.masking import secret_values
from deployment.report import show_offers
from deployment.rest_api import RunpodApi
from deployment.spec import Change
from serving.errors import ConfigurationError
from serving.model.resolve import resolve
from serving.planning.plan import Wishes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deployment.pools import Offer
    from deployment.settings import Wanted
    from deployment.terminal import Screen

Json = dict[str, Any]


class Session:
    """Hold what a command works with. `standing` says, at any moment, what an interruption would leave behind."""

    def __init__(self, wanted: Wanted, screen: Screen) -> None:
        self.wanted = wanted
        self.deploy = wanted.deploy
        self.screen = screen
        self.standing = ""
        self.prices = "shipped"

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

    def offered(self, api: RunpodApi | None) -> list[Offer]:
        """Plan the wished model on each pool, cheapest first; `prices` tells afterwards whose prices these are.

        Without an API, or where its catalogue cannot be had, the shipped pools and prices stand in.
        """
        pools: Sequence[gpu_pools.Pool] = gpu_pools.POOLS
        self.prices = "shipped"
        if api is not None:
            try:
                pools = gpu_pools.live_pools(api.gpu_types())
                self.prices = "live"
            except (Unreachable, ApiError) as error:
                if isinstance(error, ApiError) and error.status < 500:
                    raise
                self.screen.warn(f"{error} The prices are those shipped with the kit.")
        model = resolve(self.wanted.model)
        return gpu_pools.offers(pools, model, Wishes.from_settings(self.wanted.serve), self.deploy.gpu_count)

    def choose(self, offered: Sequence[Offer], live: Json | None) -> tuple[Offer, ...]:
        """Choose the pools to deploy on."""
        named = None if self.deploy.gpu_pools == "auto" else self.deploy.gpu_pools
        on = ((live or {}).get("gpu") or {}).get("pools") or ()
        return gpu_pools.choose(offered, named, on)

    def show_offers(self, offered: Sequence[Offer], chosen: Sequence[Offer]) -> None:
        """Show the table of pools."""
        show_offers(self.screen, offered, chosen, prices=f"{self.prices} prices", cached=self.deploy.cached_model)

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
