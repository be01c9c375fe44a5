"""What RunPod rents, as shipped with the kit: its GPU pools, what is in them, and their prices.

A pool mixes cards, and a worker may land on any of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from serving.hardware.parse import parse_gpus

if TYPE_CHECKING:
    from serving.hardware.gpu import Hardware


@dataclass(frozen=True)
class Card:
    """A GPU type, named as RunPod does, which is how the driver names it.

    `bandwidth` is its memory's, in GB/s, from the maker's data sheet; `described` stands in for a name that the
    planner does not know; `availability` is HIGH, MEDIUM, LOW, NONE, or None if it was not asked for.
    """

    id: str
    bandwidth: int
    availability: str | None = None
    described: str | None = None

    def hardware(self, count: int) -> Hardware:
        """Return a box with `count` of this card."""
        return parse_gpus(f"{count}x {self.described or self.id}")


@dataclass(frozen=True)
class Pool:
    """A pool and its price: USD per hour for each GPU, flex workers; None where none is published."""

    id: str
    price: float | None
    cards: tuple[Card, ...]

    def smallest(self, count: int) -> Card:
        """Return the card with the least memory; of equals the oldest, then the slowest."""

        def size(card: Card) -> tuple[int, tuple[int, int], int]:
            gpu = card.hardware(count).gpus[0]
            return gpu.total_bytes, gpu.compute_capability or (0, 0), card.bandwidth

        return min(self.cards, key=size)

    @property
    def available(self) -> bool:
        """Whether any card may be had now; unknown counts as yes."""
        return any(card.availability != "NONE" for card in self.cards)


# Prices: https://docs.runpod.io/serverless/pricing, USD per second times 3600, to the cent. The live catalogue wins.
POOLS = (
    Pool(
        "AMPERE_24",
        0.68,
        (
            Card("NVIDIA L4", 300),
            Card("NVIDIA RTX A5000", 768),
            Card("NVIDIA GeForce RTX 3090", 936),
        ),
    ),
    Pool("ADA_24", 1.12, (Card("NVIDIA GeForce RTX 4090", 1008),)),
    Pool("ADA_32_PRO", None, (Card("NVIDIA GeForce RTX 5090", 1792),)),
    Pool(
        "AMPERE_48",
        1.22,
        (Card("NVIDIA RTX A6000", 768), Card("NVIDIA A40", 696)),
    ),
    Pool(
        "ADA_48_PRO",
        1.91,
        (
            Card("NVIDIA L40", 864),
            Card("NVIDIA L40S", 864),
            Card("NVIDIA RTX 6000 Ada Generation", 960),
        ),
    ),
    Pool(
        "AMPERE_80",
        2.74,
        (Card("NVIDIA A100 80GB PCIe", 1935), Card("NVIDIA A100-SXM4-80GB", 2039)),
    ),
    Pool(
        "ADA_80_PRO",
        4.18,
        (
            Card("NVIDIA H100 PCIe", 2000),
            Card("NVIDIA H100 80GB HBM3", 3350),
            Card("NVIDIA H100 NVL", 3900),
        ),
    ),
    Pool(
        "BLACKWELL_96",
        4.00,
        (
            Card("NVIDIA RTX PRO 6000 Blackwell Server Edition", 1597),
            Card("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 1792),
            Card("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", 1792),
        ),
    ),
    Pool(
        "HOPPER_141",
        5.58,
        (Card("NVIDIA H200", 4800), Card("NVIDIA H200 NVL", 4800)),
    ),
    Pool("BLACKWELL_180", 8.64, (Card("NVIDIA B200", 8000),)),
)


def usd_per_hour(hardware: Hardware) -> float | None:
    """Return what RunPod takes an hour for such GPUs, None where it has not all of them or publishes no price."""
    prices = {card.id: pool.price for pool in POOLS for card in pool.cards}
    found = [prices.get(gpu.name) for gpu in hardware.gpus]
    known = [price for price in found if price is not None]
    return sum(known) if known and len(known) == len(found) else None
