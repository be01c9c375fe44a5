"""In which form a checkpoint's weights are, by the quantization_config of its config.json, and what that form takes.

Used for what the sizes of the files do not say yet and vLLM cannot make here. Sources: the formats' own documents; the
sizes for compressed-tensors, AWQ and GPTQ equal what vLLM 0.32 makes on the meta device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from serving.model.facts import Precision


@dataclass(frozen=True)
class Form:
    """The form of a checkpoint's linear weights: its kind, bytes of one weight with its scales, and what made it.

    `known` is false where the bytes are a guess.
    """

    precision: Precision
    weight_bytes: float
    method: str = ""
    known: bool = True


PLAIN = Form("bf16", 2.0)
# Four bits in groups that share an 8-bit scale.
_FP4 = {"mxfp4": 0.5 + 1 / 32, "nvfp4": 0.5 + 1 / 16, "modelopt_fp4": 0.5 + 1 / 16, "fp_quant": 0.5 + 1 / 16}
_BY_METHOD = {
    "fp8": Form("fp8", 1.0),
    "fbgemm_fp8": Form("fp8", 1.0),
    "modelopt_mxfp8": Form("fp8", 1 + 1 / 32),
    "mxfp8": Form("fp8", 1 + 1 / 32),
    "experts_int8": Form("int8", 1.0),
} | {method: Form("fp4", size) for method, size in _FP4.items()}


def form(config: Mapping[str, Any]) -> Form:
    """Return the form of the weights of a model with this config.json."""
    text = config.get("text_config") or {}
    found = config.get("quantization_config") or text.get("quantization_config") or config.get("compression_config")
    if not isinstance(found, dict) or not found:
        return PLAIN
    method = str(found.get("quant_method") or "unnamed").lower().replace("-", "_")
    algorithm = str(found.get("quant_algo") or "").lower()
    shape = _shape(found)
    known = _BY_METHOD.get(algorithm) or _BY_METHOD.get(method)
    if known is None and "nvfp4" in f"{found.get('format')}{algorithm}":
        known = Form("fp4", 0.5 + 1 / 16)
    if known is None and method == "bitsandbytes":
        known = Form("int8", 1.0) if found.get("load_in_8bit") else Form("int4", 0.5 + 4 / 64)
    if known is None and method == "torchao":
        shape = _torchao(found)
    if known is None:
        known = _by_shape(*shape, zero_points=bool(found.get("zero_point")) or method == "gptq")
    return Form(known.precision, known.weight_bytes, method, known.known)


def _shape(quantised: Mapping[str, Any]) -> tuple[int | None, bool, int | None]:
    """Return the bits of a weight, whether it is a floating-point number, and how many weights share a scale."""
    bits, real, group = quantised.get("bits") or quantised.get("w_bit"), False, quantised.get("group_size")
    for entry in (quantised.get("config_groups") or {}).values():
        weights = entry.get("weights") or {}
        bits = weights.get("num_bits", bits)
        real = weights.get("type") == "float"
        group = weights.get("group_size", group)
    return bits, real, group


def _torchao(quantised: Mapping[str, Any]) -> tuple[int | None, bool, int | None]:
    text = str(quantised.get("quant_type")).lower()
    group = 128 if "int4" in text else None
    return (4 if "int4" in text else 8 if "8" in text else None), "float8" in text, group


def _by_shape(bits: int | None, real: bool, group: int | None, *, zero_points: bool) -> Form:
    if not bits:
        return Form("bf16", 2.0, known=False)
    scale = 2 / group if group and group > 0 else 0.0
    if zero_points and scale:
        scale += bits / 8 / (group or 1)
    precision: Precision = ("fp8" if real else "int8") if bits > 4 else ("fp4" if real else "int4")
    return Form(precision, bits / 8 + scale)
