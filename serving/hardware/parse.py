"""GPUs that somebody describes by hand.

The grammar of `SERVE_GPUS` and `--gpus`, case and spaces do not matter:

    gpus  = [item {"," item}] | "none" nothing at all, and "none": a machine without a GPU
    item  = [count "x"] (name | memory) {option}
    name  = a GPU that `catalog` knows, also as a MIG slice: "H100 80GB HBM3 MIG 3g.40gb"
            or any other name together with a memory
    memory = "79.2GiB" or "80GB"       what a program sees; GiB = 1024^3, GB = 10^9 bytes
    option = "sm90" (compute capability) or "free=40GiB" (where something else holds the rest)
"""

from __future__ import annotations

import re
from dataclasses import replace

from serving.errors import ConfigurationError
from serving.hardware.catalog import AMBIGUOUS, KNOWN_GPUS, KnownGpu, find, is_other_makers, normalise
from serving.hardware.gpu import Gpu, Hardware
from serving.units import GIB

MAX_GPUS = 64  # on one machine; more is a typing error


def parse_gpus(text: str, variable: str = "SERVE_GPUS") -> Hardware:
    """Read a description of GPUs (the grammar is in the module's docstring).

    Raises ConfigurationError with one sentence that names `variable`, the item and what is allowed.
    """
    gpus: list[Gpu] = []
    for item in text.split(",") if text.strip().lower() not in ("", "none") else ():
        try:
            gpus.extend(_read_item(item))
        except ValueError as error:
            raise ConfigurationError(f"{variable}={text!r} is not allowed: {error}.") from error
    if len(gpus) > MAX_GPUS:
        raise ConfigurationError(f"{variable}={text!r} is not allowed: at most {MAX_GPUS} GPUs fit one machine.")
    return Hardware(tuple(gpus), source="given")


_COUNT = re.compile(r"^(\d+)\s*[x×*]\s*", re.IGNORECASE)  # noqa: RUF001 (people paste it)
_OPTION = re.compile(r"\bfree\s*=\s*(\S+(?:\s*[GM]i?B)?)", re.IGNORECASE)
_CAPABILITY = re.compile(r"\b(?:sm|cc|compute)[\s_]*(\d{1,2}\.\d|\d{2,3})[a-z]?\b", re.IGNORECASE)
_SIZE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)\s*([GM]i?B)(?!\w)", re.IGNORECASE)
_MIG = re.compile(r"\bMIG\b\s*\d+(?:c\.\d+)?g\.(\d+)gb(?:\+\S+)?", re.IGNORECASE)
_NAME = re.compile(r"(?:[A-Za-z][\w .+()/-]*)?")
_UNITS = {"gib": GIB, "gb": 10**9, "mib": 1024**2, "mb": 10**6}


def _read_item(item: str) -> list[Gpu]:
    rest = item.strip()
    if not rest:
        raise ValueError("an item between its commas is empty")
    count = 1
    if match := _COUNT.match(rest):
        count, rest = int(match[1]), rest[match.end() :]
    free: int | None = None
    if match := _OPTION.search(rest):
        free = _size(match[1])
        rest = rest[: match.start()] + rest[match.end() :]
    gpu = _read_gpu(rest.strip(), item.strip())
    if free is not None:
        if free > gpu.total_bytes:
            raise ValueError(f"{item.strip()!r} has more memory free than it has")
        gpu = replace(gpu, free_bytes=free)
    if count > MAX_GPUS:
        raise ValueError(f"at most {MAX_GPUS} GPUs fit one machine")
    return [gpu] * count


def _read_gpu(text: str, item: str) -> Gpu:
    capability: tuple[int, int] | None = None
    rest = text
    if match := _CAPABILITY.search(rest):
        digits = match[1].replace(".", "")
        capability = (int(digits[:-1]), int(digits[-1]))
        rest = " ".join((rest[: match.start()] + rest[match.end() :]).split())
    known = find(rest)
    if known:
        if capability not in (None, known.capability):
            major, minor = known.capability
            raise ValueError(f"{item!r} gives a {known.name} another compute capability than its own, {major}.{minor}")
        # A name in the driver's own words stays as it is: cards that are planned alike have several.
        name = rest if rest.startswith(("NVIDIA ", "Tesla ")) else known.name
        return _gpu(name, known.gib * GIB, known.capability, unified=known.unified)
    if is_other_makers(rest):
        raise ValueError(f"{item!r} is no NVIDIA GPU, and the kit plans for those alone")
    if match := _MIG.search(rest):
        card = find(rest[: match.start()])
        if card:
            # The slices divide the memory evenly; each loses a little to the driver.
            gib = card.gib * min(1.0, int(match[1]) / card.nominal_gb) - 0.25
            if size := _SIZE.search(rest[match.end() :]):
                gib = _size(size[0]) / GIB
            return _gpu(f"{card.name} {match[0]}", gib * GIB, card.capability, mig=True)
        if not _SIZE.search(rest[match.end() :]):
            raise ValueError(f"{item!r} is a slice of a GPU that is not known: add its memory, like '39.5GiB sm90'")
    if said := AMBIGUOUS.get(normalise(rest)):
        raise ValueError(f"{item!r} may mean more than one GPU: say {said}")
    sizes = list(_SIZE.finditer(rest))
    # The name may hold a size too, as in "H100 80GB 79.2GiB": the last one counts.
    name = " ".join((rest[: sizes[-1].start()] + rest[sizes[-1].end() :]).split()) if sizes else rest
    if not sizes or not _NAME.fullmatch(name):
        near = _near(rest)
        hint = f" (did you mean {near}?)" if near else ""
        raise ValueError(
            f"{item!r} is no GPU that is known here{hint}; it may be a name like 'L40S', or a memory and a compute "
            "capability like '79.2GiB sm90', each with a count ('2x') and 'free=40GiB' where needed"
        )
    total = _size(sizes[-1][0])
    if total < GIB:
        raise ValueError(f"{item!r} has less memory than any GPU")
    if total > 1024 * GIB:
        raise ValueError(f"{item!r} has more memory than any GPU")
    card = _named(name)
    if card and capability is None:
        capability = card.capability
    unified = card is not None and card.unified
    return _gpu(name or f"GPU of {total / GIB:.4g} GiB", total, capability, mig=_named_mig(name), unified=unified)


def _named(name: str) -> KnownGpu | None:
    """Return the card of a name that may go on, like "H100 80GB HBM3 MIG 3g.40gb"."""
    words = name.split()
    return next((card for end in range(len(words), 0, -1) if (card := find(" ".join(words[:end])))), None)


def _gpu(
    name: str, total: float, capability: tuple[int, int] | None, *, mig: bool = False, unified: bool = False
) -> Gpu:
    return Gpu(name, int(total), int(total), capability, mig, unified=unified)


def _named_mig(name: str) -> bool:
    return "mig" in name.lower().split()


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is no memory size: write it like '40GiB'")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def _near(name: str) -> str | None:
    """Return the known name that was probably meant: never one with another number, which is another card."""
    from difflib import get_close_matches

    names = {normalise(text): gpu.name for gpu in KNOWN_GPUS for text in (gpu.name, *gpu.aliases)}
    numbers = re.findall(r"\d+", name)
    alike = [text for text in names if re.findall(r"\d+", text) == numbers]
    found = get_close_matches(normalise(name), alike, n=1)
    return names[found[0]] if found else None
