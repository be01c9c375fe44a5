"""The models whose facts are shipped: planned without an engine, without a network, before a licence is accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serving.model import gemma3, gemma4

if TYPE_CHECKING:
    from serving.model.facts import ModelFacts

# Family by family, largest first.
MEMBERS = (*gemma4.FAMILY, *gemma3.FAMILY, gemma3.MEDGEMMA)


def shipped(name: str) -> ModelFacts | None:
    """Return the facts behind a name: a member of a family, or one of its known checkpoints; None if neither."""
    return gemma3.shipped(name) or gemma4.shipped(name)


def smaller(model: ModelFacts) -> list[ModelFacts]:
    """Return the smaller members of a model's family, largest first."""
    alike = [other for other in MEMBERS if model.family is not None and other.family is model.family]
    return [other for other in alike if other.weight_bytes < model.weight_bytes and other is not gemma3.MEDGEMMA]
