"""RunPod's GPU pools: what is in them, what they cost, and which of them the plan fits.

A pool mixes cards, and a worker may land on any of them, so each pool is planned for its smallest card.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from serving.errors import ConfigurationError, DoesNotFit
from serving.hardware.rented import POOLS, Card, Pool
from serving.planning.precision import ORDER
from serving.units import GIB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deployment.answers import GpuType
    from serving.launch import Settled
    from serving.model.facts import ModelFacts
    from serving.planning.plan import Plan

MOST_POOLS = 3  # what RunPod takes
STOCK = ("NONE", "LOW", "MEDIUM", "HIGH")

# The assumptions behind the two estimates. They are for comparing pools, not for a bill.
AT_ONCE = 16
BANDWIDTH_SHARE = 0.6
DOWNLOAD_GB_PER_S = 0.3
START_S = 180.0
ASSUMPTIONS = (
    f"$/M tokens assumes {AT_ONCE} answers at once for each copy of the model (or what fits of 8k tokens), written "
    f"at {BANDWIDTH_SHARE:.0%} of the memory bandwidth; a cold start assumes weights at {DOWNLOAD_GB_PER_S} GB/s "
    f"and {START_S:.0f} s to load, compile and warm up. Estimates, for comparing."
)


@dataclass(frozen=True)
class Offer:
    """What one pool would run, and what that would cost. `plan` may not fit; its reason says why."""

    pool: Pool
    card: Card
    count: int
    settled: Settled
    plan: Plan

    @property
    def model(self) -> ModelFacts:
        """Return what is known of the model."""
        return self.settled.facts

    @property
    def fits(self) -> bool:
        """Whether the model fits the pool's smallest card."""
        return bool(self.plan.fits)

    @property
    def hourly(self) -> float | None:
        """Return USD per hour for one worker."""
        return None if self.pool.price is None else self.pool.price * self.count

    @property
    def tokens_per_second(self) -> float | None:
        """Return the estimate of what one worker writes when busy, in tokens/s (see ASSUMPTIONS)."""
        if not self.fits:
            return None
        wanted = AT_ONCE * (self.plan.data_parallel_size or 1)
        at_once = max(1.0, min(float(wanted), float(self.plan.concurrency.get(8192) or 1)))
        gpus_per_copy = self.plan.tensor_parallel_size or 1
        return at_once * BANDWIDTH_SHARE * self.card.bandwidth * gpus_per_copy / weight_gb(self.plan)

    @property
    def per_million_tokens(self) -> float | None:
        """Return USD per million written tokens, from the estimate above."""
        if self.hourly is None or self.tokens_per_second is None:
            return None
        return self.hourly / 3600 / self.tokens_per_second * 1e6

    def cold_start_s(self, *, cached: bool) -> float | None:
        """Return the estimate of a cold start's billed seconds; RunPod does not bill a cached model's download."""
        if not self.fits:
            return None
        return START_S + (0.0 if cached else weight_gb(self.plan) / DOWNLOAD_GB_PER_S)

    def cold_start(self, *, cached: bool) -> float | None:
        """Return the estimate of what one cold start costs, in USD."""
        seconds = self.cold_start_s(cached=cached)
        return None if self.hourly is None or seconds is None else self.hourly / 3600 * seconds


def weight_gb(plan: Plan) -> float:
    """Return the size of all the weights in GB, over all the GPUs that share a copy."""
    return plan.weights_gib * GIB / 1e9


def live_pools(gpu_types: Sequence[GpuType], centers: Sequence[str] = ()) -> tuple[Pool, ...]:
    """Return the catalogue's pools, with live prices and what is in stock, in `centers` if any are named.

    Shipped facts fill what the catalogue does not say.
    """
    known = {card.id: card for pool in POOLS for card in pool.cards}
    kin = {pool.id: pool.cards[0] for pool in POOLS}
    cards: dict[str, list[Card]] = {}
    prices: dict[str, float] = {}
    for gpu in gpu_types:
        pool = gpu.pool
        card = known.get(gpu.id) or _stranger(gpu, kin.get(str(pool)))
        if not pool or card is None:
            continue  # not for serverless, or of a kind that cannot be planned for
        cards.setdefault(pool, []).append(replace(card, availability=_stock(gpu, centers)))
        if gpu.price.serverless is not None and 0 <= gpu.price.serverless < math.inf:
            prices[pool] = max(gpu.price.serverless, prices.get(pool, 0.0))
    shipped = {pool.id: pool.price for pool in POOLS}
    return tuple(Pool(pool, prices.get(pool, shipped.get(pool)), tuple(members)) for pool, members in cards.items())


def _stock(gpu: GpuType, centers: Sequence[str]) -> str | None:
    """Return what is in stock of a GPU type where workers may run: the best of these places."""
    if not centers or not gpu.data_centers:
        return gpu.availability
    here = [place.availability for place in gpu.data_centers if place.id in centers]
    # A place that is not listed has none.
    return max(here, key=lambda level: STOCK.index(level) if level in STOCK else 0, default="NONE")


def _stranger(gpu: GpuType, kin: Card | None) -> Card | None:
    """Describe a card that is new in a pool by its memory and the generation of the pool's other cards."""
    if kin is None or not 1 <= gpu.memory <= 10_000:
        return None
    capability = kin.hardware(1).gpus[0].compute_capability
    if capability is None:
        return None
    gib = gpu.memory * 1e9 / GIB  # a little less than the figure on the box, as a program sees it
    return Card(gpu.id, kin.bandwidth, described=f"{gib:.1f}GiB sm{capability[0]}{capability[1]}")


def offers(pools: Sequence[Pool], settled: Settled, count: int) -> list[Offer]:
    """Plan what is settled for each pool; cheapest first, those without a price last."""
    planned = []
    for pool in pools:
        card = pool.smallest(count)
        planned.append(Offer(pool, card, count, settled, settled.plan(card.hardware(count))))
    return sorted(planned, key=lambda offer: (offer.hourly is None, offer.hourly or 0.0, offer.pool.id))


def choose(offered: Sequence[Offer], named: Sequence[str] | None, live: Sequence[str] = ()) -> tuple[Offer, ...]:
    """Return the offers to deploy on, all of one checkpoint: RunPod puts a worker on the first that has room.

    `named` are the pools that were asked for; None is "auto": the cheapest that fits and can be had, and up to two more
    that can take over with the same checkpoint. A live endpoint (`live` names its pools) keeps them while they fit, so
    that a price that moved does not move the endpoint.
    Raises ConfigurationError for a name that is no pool, DoesNotFit for one that is too small.
    """
    if named is not None:
        return tuple(_named(offered, named))
    kept = [offer for offer in offered if offer.pool.id in live]
    if kept and len(kept) == len(live) and (alike := _in_common(kept)):
        return tuple(alike)
    fitting = [offer for offer in offered if offer.fits]
    # The sort is stable: cheapest first, among those with a price that can be had now.
    fitting.sort(key=lambda offer: (offer.hourly is None, not offer.pool.available))
    if not fitting:
        nearest = offered[-1].plan.reason if offered else "the catalogue lists no NVIDIA pool"
        raise DoesNotFit(f"No GPU pool fits with {_gpus(offered)} per worker: {nearest}")
    first, *others = fitting
    spare = [offer for offer in others if offer.hourly is not None and offer.pool.available]
    return tuple(_alike([first, *spare], first.plan.precision)[:MOST_POOLS])


def _alike(candidates: Sequence[Offer], precision: Any) -> list[Offer]:
    """Return those of the offers that fit in a precision, planned for it: they run the same checkpoint."""
    planned = []
    for offer in candidates:
        plan = offer.settled.plan(offer.card.hardware(offer.count), precision)
        if plan.fits:
            planned.append(replace(offer, plan=plan))
    return planned


def _in_common(candidates: Sequence[Offer]) -> list[Offer]:
    """Return the offers in the best precision that fits them all; none if there is none, or if one does not fit."""
    if not all(offer.fits for offer in candidates):
        return []
    for precision in sorted({str(offer.plan.precision) for offer in candidates}, key=_rank):
        alike = _alike(candidates, precision)
        if len(alike) == len(candidates):
            return alike
    return []


def _rank(precision: str) -> int:
    return ORDER.index(precision) if precision in ORDER else len(ORDER)


def _named(offered: Sequence[Offer], named: Sequence[str]) -> list[Offer]:
    by_id = {offer.pool.id: offer for offer in offered}
    unknown = [pool for pool in named if pool not in by_id]
    if unknown:
        raise ConfigurationError(
            f"DEPLOY_GPU_POOLS={','.join(named)!r} is not allowed: {unknown[0]} is no pool; "
            f"there are {', '.join(by_id)}, and auto."
        )
    chosen = [by_id[pool] for pool in dict.fromkeys(named)]
    small = next((offer for offer in chosen if not offer.fits), None)
    if small is not None:
        raise DoesNotFit(
            f"DEPLOY_GPU_POOLS={','.join(named)!r} does not fit: {small.pool.id} may give {small.count}x "
            f"{small.card.id}. {small.plan.reason}"
        )
    alike = _in_common(chosen)
    if not alike:
        raise DoesNotFit(
            f"DEPLOY_GPU_POOLS={','.join(named)!r} does not fit: all workers must answer with one checkpoint, and none "
            "fits on all of these pools: name fewer."
        )
    return alike


def _gpus(offered: Sequence[Offer]) -> str:
    count = offered[0].count if offered else 1
    return f"{count} GPU" if count == 1 else f"{count} GPUs"
