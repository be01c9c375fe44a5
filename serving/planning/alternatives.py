"""Where nothing fits: the nearest things that would."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from serving.hardware.catalog import KNOWN_GPUS
from serving.hardware.gpu import Gpu, Hardware
from serving.model.shipped import smaller
from serving.planning.precision import BF16_CAPABILITY
from serving.planning.search import best_candidate, every_candidate, wanted_length
from serving.units import GIB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from serving.model.facts import ModelFacts
    from serving.planning.request import PlanRequest
    from serving.planning.search import Candidate

COUNTS = (2, 4, 8)
LEAST_CONTEXT = 2048  # less than this is no use to anybody


def alternatives(model: ModelFacts, hardware: Hardware, request: PlanRequest) -> tuple[str, ...]:
    """Return the nearest things that fit, nearest first, each as the words that ask for it and what it gives.

    A smaller precision, then a shorter context, images left out, a smaller member of the family, more or larger GPUs.
    """
    return tuple(_precision(model, hardware, request) or _context(model, hardware, request)) + tuple(
        item
        for items in (_smaller_model(model, hardware, request), _more_gpus(model, hardware, request))
        for item in items
    )


def _precision(model: ModelFacts, hardware: Hardware, request: PlanRequest) -> list[str]:
    if request.precision == "auto" and request.dtype == "auto":
        return []
    found = _best(model, hardware, replace(request, precision="auto", dtype="auto"))
    return [f"{request.words.ask('precision', found.precision)} ({found.longest:,} tokens)"] if found else []


def _context(model: ModelFacts, hardware: Hardware, request: PlanRequest) -> Iterator[str]:
    free = replace(request, precision="auto", max_model_len=None)
    longest = _longest(model, hardware, free)
    ask = request.words.ask
    if longest is not None and _length(longest, model, request) >= LEAST_CONTEXT:
        yield f"{ask('context', _length(longest, model, request))} ({longest.precision})"
    if model.vision and not request.text_only:
        lean = replace(free, text_only=True)
        without = _longest(model, hardware, lean)
        if without is not None and without.longest >= wanted_length(model, request):
            yield f"{ask('text_only')} ({without.precision}, {without.longest:,} tokens)"
        elif without is not None and without.longest >= LEAST_CONTEXT:
            yield f"{ask('text_only')} {ask('context', _length(without, model, request))} ({without.precision})"


def _length(candidate: Candidate, model: ModelFacts, request: PlanRequest) -> int:
    """Return a round number of tokens that fits."""
    length = min(candidate.longest, wanted_length(model, request))
    return length // 1024 * 1024


def _smaller_model(model: ModelFacts, hardware: Hardware, request: PlanRequest) -> Iterator[str]:
    for other in smaller(model):
        free = replace(request, precision="auto", max_model_len=None, tensor_parallel_size=None)
        found = _best(other, hardware, free)
        if found:
            yield f"{request.words.ask('model', other.name)} ({found.precision}, {found.longest:,} tokens)"
            return


def _more_gpus(model: ModelFacts, hardware: Hardware, request: PlanRequest) -> Iterator[str]:
    request = replace(request, tensor_parallel_size=None, data_parallel_size=None)
    gpus = [gpu for gpu in hardware.gpus if not gpu.mig]
    if gpus:
        gpu = max(gpus, key=lambda item: (item.compute_capability or BF16_CAPABILITY, item.total_bytes))
        for count in COUNTS:
            if count <= len(gpus):
                continue
            idle = replace(gpu, free_bytes=gpu.total_bytes)
            found = _best(model, Hardware((idle,) * count, source="given"), request)
            if found:
                yield f"{count}x {gpu.name} ({found.precision})"
                return
    for known in sorted((item for item in KNOWN_GPUS if not item.unified), key=lambda item: item.gib):
        size = int(known.gib * GIB)
        card = Gpu(known.name, size, size, known.capability)
        found = _best(model, Hardware((card,), source="given"), request)
        if found:
            yield f"1x {known.name} ({found.precision})"
            return


def _best(model: ModelFacts, hardware: Hardware, request: PlanRequest) -> Candidate | None:
    return best_candidate(every_candidate(model, hardware, request), wanted_length(model, request))


def _longest(model: ModelFacts, hardware: Hardware, request: PlanRequest) -> Candidate | None:
    tried = [item for item in every_candidate(model, hardware, request) if item.longest]
    return max(tried, key=lambda item: item.longest, default=None)
