"""Formats of weights and of the KV cache as a plan weighs them: bits per weight by kind of matrix, and what multiplies them.

Block formats take their bits from `formats.FORMATS`. What this version computes with says `runs`; the others are planned:
their bytes are exact, their speed is a forecast for kernels that are not there yet. Open `WEIGHTS`, then `KV`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from redline.errors import ConfigError
from redline.formats import FORMATS

PLANNED = "planned, not run by this version"
HALF = 16.0


@dataclass(frozen=True)
class WeightFormat:
    """`bits` per weight of a projection, scales included; `by_part` where a kind of matrix has others (names as in
    `roofline.weight_parts`). The input embedding and the head stay in 16 bits unless `by_part` says otherwise.

    `multiplies` is the type whose rate products run at where a chip has it; None: the type of the activations.
    `loss` orders formats by what they lose: a search takes the least that meets a goal.
    """

    name: str
    bits: float
    loss: int
    runs: bool = False
    multiplies: str | None = None
    by_part: tuple[tuple[str, float], ...] = ()
    source: str = "formats.py"

    def part_bits(self, part: str) -> float:
        """Bits per weight of one kind of matrix."""
        own = dict(self.by_part).get(part)
        if own is not None:
            return own
        if part in ("embedding", "lm_head"):
            return self.bits if self.runs else HALF
        return self.bits


@dataclass(frozen=True)
class KvFormat:
    """`bits` per element of K and V, scales included."""

    name: str
    bits: float
    loss: int
    runs: bool = False


def _gguf(name: str, loss: int) -> WeightFormat:
    bits = FORMATS[name].bits
    return WeightFormat(name, bits, loss, by_part=(("embedding", bits), ("lm_head", bits)))


_Q4, _Q6 = FORMATS["q4_k"].bits, FORMATS["q6_k"].bits
_MIXED = (_Q4 + _Q6) / 2

WEIGHTS: Mapping[str, WeightFormat] = {
    entry.name: entry
    for entry in (
        WeightFormat("float32", 32, 0, runs=True, multiplies="float32"),
        WeightFormat("bfloat16", 16, 1, runs=True),
        WeightFormat("float16", 16, 1, runs=True),
        WeightFormat("fp8", 8, 2, multiplies="fp8", source="e4m3, a scale for each row"),
        _gguf("q8_0", 2),
        WeightFormat("int8", 8, 3, multiplies="int8", source="a scale for each row"),
        WeightFormat("mxfp8", 8.25, 3, multiplies="mxfp8", source="32 weights share 8 bits of scale"),
        _gguf("q6_k", 4),
        _gguf("q5_k", 5),
        # llama.cpp's rule: half of the value and down projections and the head in Q6_K. Values are a share of qkv (below).
        WeightFormat(
            "q4_k_m",
            _Q4,
            6,
            by_part=(("value", _MIXED), ("down", _MIXED), ("experts_down", _MIXED), ("lm_head", _Q6), ("embedding", _Q4)),
            source="llama.cpp's mixing rule over formats.py",
        ),
        _gguf("q4_0", 7),
        WeightFormat("nvfp4", 4.5, 7, multiplies="nvfp4", source="16 weights share 8 bits of scale"),
        WeightFormat("int4", 4.25, 7, source="128 weights share 16 bits of scale and 16 of zero"),
        WeightFormat("mxfp4", 4.25, 8, multiplies="mxfp4", source="32 weights share 8 bits of scale"),
    )
}

KV: Mapping[str, KvFormat] = {
    entry.name: entry
    for entry in (
        KvFormat("float32", 32, 0, runs=True),
        KvFormat("bfloat16", 16, 1, runs=True),
        KvFormat("float16", 16, 1, runs=True),
        KvFormat("fp8", 8, 2),
        KvFormat("int8", 8.25, 2),
        KvFormat("int4", 4.5, 5),
    )
}

SHORT = {"bf16": "bfloat16", "f16": "float16", "fp16": "float16", "f32": "float32", "fp32": "float32", "q4": "int4", "q8": "q8_0"}


def weight_format(name: str) -> WeightFormat:
    """The format that people call `name`; raises ConfigError with those there are."""
    found = WEIGHTS.get(SHORT.get(name.lower(), name.lower()))
    if found is None:
        raise ConfigError(f"no weight format is called {name!r}", hint=f"known: {', '.join(WEIGHTS)}", param="format")
    return found


def kv_format(name: str) -> KvFormat:
    """The KV format that people call `name`; raises ConfigError with those there are."""
    found = KV.get(SHORT.get(name.lower(), name.lower()))
    if found is None:
        raise ConfigError(f"no KV format is called {name!r}", hint=f"known: {', '.join(KV)}", param="kv")
    return found
