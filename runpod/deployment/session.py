"""What a command works with: the settings, the terminal, the API, and a word on what an interruption would leave."""

from __future__ import annotations

import fcntl
import hashlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployment import pools as gpu_pools
from deployment import spec
from deployment.errors import ApiError, DeployError, Unreachable
from deployment.graphql_api import CachedModel, reference, same_models
from deployment.masking import secret_values
from deployment.report import show_offers
from deployment.rest_api import RunpodApi
from deployment.spec import Change
from serving.errors import ConfigurationError
from serving.hardware.rented import POOLS
from serving.launch import for_others

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from deployment.answers import Endpoint
    from deployment.pools import Offer
    from deployment.settings import DeployConfig
    from deployment.terminal import Terminal
    from serving.hardware.rented import Pool

Json = dict[str, Any]

LOCKS = Path("~/.cache/gemma-vllm-kit/deploys")


class Session:
    """What a command works with.

    `if_interrupted` says, at any moment, what an interruption would leave behind; `may_change`: the command is one that
    changes something, so that it is worth a word if it has not.
    """

    def __init__(self, config: DeployConfig, terminal: Terminal) -> None:
        self.config = config
        self.deploy = config.deploy
        self.terminal = terminal
        self.if_interrupted = ""
        self.may_change = False
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
        return RunpodApi(self.deploy.api_url, self.key, self.terminal.redact)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other deploys of this endpoint on this machine waiting until the block is left."""
        name = hashlib.sha256(f"{self.deploy.api_url}\0{self.deploy.name}".encode()).hexdigest()[:16]
        try:
            folder = LOCKS.expanduser()
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / name).open("a")
        except (OSError, RuntimeError):  # no home to write to: a twin is still found after it was made
            yield
            return
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self.terminal.say(f"Another deploy of {self.deploy.name} runs on this machine: waiting for it.")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def find(self, api: RunpodApi) -> Endpoint | None:
        """Return the endpoint of our name, if there is one; its secrets are kept off the terminal from here on."""
        live = api.find_endpoint(self.deploy.name)
        if live is not None:
            self.terminal.redact.learn(secret_values(live.env))
        return live

    def must_find(self, api: RunpodApi) -> Endpoint:
        """Return the endpoint of our name. Raises DeployError if there is none."""
        live = self.find(api)
        if live is None:
            raise DeployError(f"There is no endpoint called {self.deploy.name!r}: `make deploy` creates it.")
        return live

    def centers(self, api: RunpodApi) -> tuple[str, ...]:
        """Return where workers may run; nothing: anywhere. Raises ConfigurationError if a volume is not there."""
        named = self.deploy.data_centers
        volumes = [api.network_volume(volume) for volume in self.deploy.network_volume]
        for volume in volumes:
            if named and volume.data_center not in named:
                raise ConfigurationError(
                    f"DEPLOY_DATA_CENTERS={','.join(named)!r} is not allowed: it must name {volume.data_center}, where "
                    f"the network volume {volume.id} is."
                )
        return named or tuple(volume.data_center for volume in volumes if volume.data_center)

    def offered(self, api: RunpodApi | None) -> list[Offer]:
        """Plan the model for each pool, cheapest first; `prices` says afterwards whose prices these are.

        Without an API, or where its catalogue cannot be had, the shipped pools and prices stand in.
        """
        pools: Sequence[Pool] = POOLS
        self.prices = "shipped"
        if api is not None:
            try:
                centers = self.centers(api)
                gpu_types = api.gpu_types(count=self.deploy.gpu_count, min_cuda=spec.CUDA)
                pools = gpu_pools.live_pools(gpu_types, centers)
                self.prices = "live"
            except (Unreachable, ApiError) as error:
                if isinstance(error, ApiError) and error.status < 500:
                    raise
                self.terminal.warn(f"{error} The prices are those shipped with the kit.")
        settled = for_others(self.config.serve, "deployed")
        return gpu_pools.offers(pools, settled, self.deploy.gpu_count)

    def choose(self, offered: Sequence[Offer], live: Endpoint | None) -> tuple[Offer, ...]:
        """Choose the pools to deploy on."""
        named = None if self.deploy.gpu_pools == "auto" else self.deploy.gpu_pools
        return gpu_pools.choose(offered, named, live.gpu.pools if live else ())

    def show_offers(self, offered: Sequence[Offer], chosen: Sequence[Offer]) -> None:
        """Show the table of pools."""
        show_offers(self.terminal, offered, chosen, prices=f"{self.prices} prices", cached=self.deploy.cached_model)

    def desired(self, offers: Sequence[Offer], live: Endpoint | None, *, prune: bool) -> Json:
        """Return the endpoint as it should be. What the console says of the engine stays, unless `prune`."""
        kept = spec.console_env(live.env if live else {}, spec.worker_env(self.config, offers[0]))
        if kept and not prune:
            self.terminal.say(f"Kept as RunPod's console has them: {', '.join(kept)} (ARGS=--prune-env removes them).")
        return spec.desired(self.config, offers, {} if prune else kept)

    def changes(self, desired: Json, live: Endpoint | None, offers: Sequence[Offer]) -> list[Change]:
        """Return what `up` would change, the cached model included."""
        changes = spec.compare(desired, live.body if live else None)
        if self.deploy.cached_model:
            model = reference(str(offers[0].plan.checkpoint))
            stored = () if live is None else self.cache().current(live.id)
            if not same_models(stored, [model]):
                changes.append(Change("cached model", ", ".join(stored), model))
        return changes

    def cache(self, or_else: str = "set DEPLOY_CACHED_MODEL=0") -> CachedModel:
        """Return the access to the cached model; `or_else` ends a sentence that says what can be done without it."""
        return CachedModel(self.deploy.graphql_url, self.key, self.terminal.redact, or_else)
