"""What a deploy shows: the pools that fit and their prices, what will change, and the endpoint's state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deployment.pools import ASSUMPTIONS, Offer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deployment.settings import DeploySettings
    from deployment.spec import Change
    from deployment.terminal import Terminal

Json = dict[str, Any]

VOLUME_USD_PER_GB_MONTH = 0.07  # below 1 TB; https://docs.runpod.io/serverless/pricing


def show_offers(
    terminal: Terminal, offered: Sequence[Offer], chosen: Sequence[Offer], *, prices: str, cached: bool
) -> None:
    """Show the pools that fit, cheapest first, and name those that do not."""
    planned = {offer.pool.id: offer for offer in chosen}
    fitting = [planned.get(offer.pool.id, offer) for offer in offered if offer.fits]
    rows = [
        (
            "→" if offer.pool.id in planned else "",
            offer.pool.id,
            f"{offer.count}x {offer.card.id.removeprefix('NVIDIA ')}",
            str(offer.plan.precision),
            f"{offer.plan.max_model_len:,}",
            str(offer.plan.max_num_seqs),
            usd(offer.hourly),
            _about(offer.per_million_tokens),
            _about(offer.cold_start(cached=cached)),
            ", ".join(sorted({card.availability for card in offer.pool.cards if card.availability})) or "unknown",
        )
        for offer in fitting
    ]
    columns = (
        "",
        "pool",
        "planned for",
        "weights",
        ">context",
        ">at once",
        ">$/h",
        ">$/M tokens",
        ">$/cold start",
        "stock",
    )
    terminal.table(f"GPU pools that fit, cheapest first ({prices})", columns, rows)
    small = [f"{offer.pool.id} ({offer.card.id.removeprefix('NVIDIA ')})" for offer in offered if not offer.fits]
    if small:
        terminal.say(f"Too small: {', '.join(small)}.", "dim")
    terminal.say(ASSUMPTIONS, "dim")


def show_changes(terminal: Terminal, changes: Sequence[Change], *, create: bool, name: str) -> None:
    """Show what a run of `up` would change."""
    if not changes:
        terminal.say(f"Endpoint {name} is as it should be: nothing to change.")
    elif create:
        terminal.table(f"Create endpoint {name}", ("field", "value"), [(item.field, item.new) for item in changes])
    else:
        rows = [(item.field, item.old or "not set", item.new or "not set") for item in changes]
        terminal.table(f"Change endpoint {name}", ("field", "now", "then"), rows)


def bound(deploy: DeploySettings, chosen: Sequence[Offer]) -> float | None:
    """Return the most that the endpoint can cost, in USD per hour: all workers up, on the dearest pool."""
    prices = [offer.hourly for offer in chosen]
    if not prices or None in prices:
        return None
    return deploy.workers_max * max(price for price in prices if price is not None)


def idle_cost(deploy: DeploySettings, chosen: Sequence[Offer]) -> float | None:
    """Return what a worker costs, in USD, while it waits for more work before it stops, on the dearest pool."""
    most = bound(deploy, chosen)
    return None if most is None or not deploy.idle_applies else most / deploy.workers_max / 3600 * deploy.idle_timeout


def show_bound(terminal: Terminal, deploy: DeploySettings, chosen: Sequence[Offer]) -> None:
    """Show the upper bound on spend, and what it costs when idle."""
    most = bound(deploy, chosen)
    if most is None:
        terminal.warn(f"no price is known for {chosen[0].pool.id}: look it up before going on.")
        return
    price = most / deploy.workers_max
    idle = f"{usd(price * deploy.workers_min)}/h when idle" if deploy.workers_min else "nothing when idle"
    terminal.say(
        f"At most {usd(most)}/h ({deploy.workers_max} workers x {deploy.gpu_count} GPU x "
        f"{usd(price / deploy.gpu_count)}), {idle}.",
        "bold",
    )
    waiting = idle_cost(deploy, chosen)
    if waiting is not None:
        terminal.say(
            f"Between its last request and its stop a worker waits {duration(deploy.idle_timeout)} "
            f"(DEPLOY_IDLE_TIMEOUT), which is billed like work: {usd(round(waiting, 4))} each time."
        )


def offer_json(offer: Offer, chosen: Sequence[Offer], *, cached: bool) -> Json:
    """Return one pool of the table for machines, as it is planned where it is chosen."""
    planned = next((item for item in chosen if item.pool.id == offer.pool.id), None)
    offer = planned or offer
    return {
        "pool": offer.pool.id,
        "chosen": planned is not None,
        "fits": offer.fits,
        "reason": None if offer.fits else offer.plan.reason,
        "gpu": offer.card.id,
        "gpu_count": offer.count,
        "precision": offer.plan.precision,
        "checkpoint": offer.plan.checkpoint,
        "max_model_len": offer.plan.max_model_len,
        "max_num_seqs": offer.plan.max_num_seqs,
        "usd_per_gpu_hour": offer.pool.price,
        "usd_per_hour": offer.hourly,
        "usd_per_million_tokens": offer.per_million_tokens,
        "cold_start_seconds": offer.cold_start_s(cached=cached),
        "usd_per_cold_start": offer.cold_start(cached=cached),
        "available": offer.pool.available,
    }


def changes_json(changes: Sequence[Change]) -> list[Json]:
    """Return the changes for machines, masked as on the screen."""
    return [{"field": item.field, "old": item.old, "new": item.new} for item in changes]


def show_status(terminal: Terminal, status: Json) -> None:
    """Show one endpoint on one screen. `status` is what `endpoint_status.read` returns."""
    terminal.say(f"{status['name']}  {status['id']}  {status['type'].lower()}  {status['base_url'] or ''}", "bold")
    release = status["release"]
    version = (
        "unknown" if release["version"] is None else f"{release['version']} of {release['created_at'] or 'unknown'}"
    )
    rollout = release["rollout"]
    rolling = f", rolling out: {rollout['workersOnLatest']} of {rollout['workersTotal']} workers" if rollout else ""
    workers, jobs = status["workers"], status["jobs"]
    counts = ", ".join(f"{count} {state}" for state, count in workers["by_state"].items() if count) or "none running"
    rows = [
        ("release", version + rolling),
        ("image", status["image"] or "unknown"),
        ("GPUs", status["gpu"]),
        ("workers", f"{counts} (min {workers['min']}, max {workers['max']})"),
        ("jobs", "unknown" if jobs is None else ", ".join(f"{count} {state}" for state, count in jobs.items())),
        ("cost so far", "unknown" if status["cost_usd"] is None else _about(status["cost_usd"])),
    ]
    rows += [("last error", error) for error in status["errors"]]
    rows += [("hint", status["hint"])] if status["hint"] else []
    terminal.table("", ("", ""), rows)
    if workers["list"]:
        terminal.table(
            "Workers",
            ("worker", "state", "GPU", "data centre", ">up", "release"),
            [
                (
                    worker["id"],
                    worker["status"].lower() + (" (old release)" if worker.get("isStale") else ""),
                    str(worker.get("gpuTypeId") or "not placed yet").removeprefix("NVIDIA "),
                    worker.get("dataCenterId") or "",
                    duration(worker.get("uptimeSeconds")),
                    str(worker.get("version") or ""),
                )
                for worker in workers["list"]
            ],
        )


def usd(amount: float | None) -> str:
    """Return an amount of money, or a dash; more than two decimals only where there are more, and at most four."""
    if amount is None:
        return "-"
    return f"${amount:,.2f}" if abs(round(amount, 4) - round(amount, 2)) < 1e-9 else f"${amount:,.4f}".rstrip("0")


def _about(amount: float | None) -> str:
    return "-" if amount is None else f"${amount:,.2f}"


def duration(seconds: float | None) -> str:
    """Return a length of time, short."""
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
