"""CUDA_VISIBLE_DEVICES: which of a machine's GPUs a CUDA program sees, and what is wrong with one that names none.

CUDA reads a list of numbers (in the order of the PCI bus, since the kit sets CUDA_DEVICE_ORDER) or of UUIDs, which may
be cut short while they stay unique. It stops without a word at the first that it does not know, and takes a list that
names a GPU twice for an empty one. vLLM 0.32 reads the list again, as whole numbers or UUIDs, and fails on all else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serving.hardware.gpu import Gpu

VARIABLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Device:
    """A GPU or a MIG slice, with the names that CUDA knows it by. `broken` says why it is there and cannot be used.

    The number of a GPU that is divided means its first slice; the others have none.
    """

    gpu: Gpu
    number: int | None
    uuid: str | None
    broken: str | None = None

    def __str__(self) -> str:
        return f"{self.gpu.id} ({self.gpu.name})"


@dataclass(frozen=True)
class Visible:
    """What a program sees: the GPUs, a note on what is left out, or the sentence on a variable that names none."""

    gpus: tuple[Gpu, ...]
    notes: tuple[str, ...] = ()
    problem: str | None = None


def visible(devices: Sequence[Device], value: str | None) -> Visible:
    """Return what of `devices` is seen where the variable has this value (None: not set)."""
    if value is None:
        return Visible(tuple(device.gpu for device in devices if device.broken is None))
    chosen: list[Device] = []
    ignored = None
    words = [word.strip() for word in value.split(",")]
    for position, word in enumerate(words):
        try:
            device = _find(devices, word)
        except LookupError as error:
            if position == len(words) - 1 and not word and chosen:
                break  # a comma at the end
            if not chosen:
                return _none(devices, value, str(error))
            ignored = f"{VARIABLE}={value!r}: {error}; CUDA ignores it and what follows"
            break
        if device.broken is not None:
            return _none(devices, value, device.broken)
        if device in chosen:
            return _none(devices, value, f"{word!r} stands in it twice, and CUDA then sees none")
        chosen.append(device)
    left = [str(device) for device in devices if device not in chosen]
    notes = [ignored] if ignored else []
    if left:
        notes.append(f"{VARIABLE}={value!r} leaves out {', '.join(left)}")
    return Visible(tuple(device.gpu for device in chosen), tuple(notes))


def _find(devices: Sequence[Device], word: str) -> Device:
    """Return the device that a word means. Raises LookupError that says why there is none."""
    if not word:
        raise LookupError("it is empty")
    if word.isascii() and word.isdecimal():
        number = int(word[:9])
        found = [device for device in devices if device.number == number]
    else:
        exact = [device for device in devices if device.uuid == word]
        cut_short = word.startswith(("GPU-", "MIG-")) and len(word) > len("GPU-")
        found = exact or [device for device in devices if cut_short and (device.uuid or "").startswith(word)]
    if len(found) > 1:
        raise LookupError(f"{word!r} begins the UUID of more than one")
    if not found:
        raise LookupError(f"{word!r} is none of them")
    return found[0]


def _none(devices: Sequence[Device], value: str, why: str) -> Visible:
    there = ", ".join(map(str, devices))
    return Visible(
        (),
        problem=f"{VARIABLE}={value!r} names no GPU here: {why}. There is {there}: unset the variable, or name some of "
        "them with commas between (SERVE_GPUS=none means that no GPU is to be used)",
    )
