"""Tables of chips: what makers' data sheets say. Data, torch-free.

A table is for judging a measurement and for a card that cannot be measured; a receipt is never computed from it when a
measurement exists. An unknown chip is unknown: no figure is invented for it. Matrix rates are dense (no sparsity) with
float32 accumulation, in FLOP/s at boost clock; bandwidth in bytes/s; memory as sold. Open `chip` and `architecture`.

Sources: NVIDIA's data sheets of T4, A100 (80 GB), L4, L40S, H100, H200 and DGX/HGX B200 (one eighth of the board's
rates); the Ada architecture white paper for the RTX 4090; the CUDA C++ Programming Guide's tables per compute
capability for native types. Shared memory is in `ops.TARGETS`, which kernels are compiled for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from redline.ops import TARGETS

_TERA = 1e12
_GIGA = 1e9


@dataclass(frozen=True)
class Architecture:
    """One compute capability. `native` are the types its matrix units take, plus float32."""

    name: str
    capability: tuple[int, int]
    native: frozenset[str]

    @property
    def shared_memory_bytes(self) -> int | None:
        """Most that one block may ask for; None where kernels are not compiled for this capability."""
        target = TARGETS.get(self.capability[0] * 10 + self.capability[1])
        return target.shared_bytes if target else None


@dataclass(frozen=True)
class Chip:
    """One product. `driver_names` are the names its driver reports; `flops` are dense rates by type."""

    name: str
    driver_names: tuple[str, ...]
    capability: tuple[int, int]
    memory_bytes: int
    read_bytes_per_s: float
    flops: Mapping[str, float]
    source: str


def _architecture(name: str, major: int, minor: int, *native: str) -> Architecture:
    return Architecture(name, (major, minor), frozenset(("float32", *native)))


def _chip(
    name: str,
    driver_names: tuple[str, ...],
    capability: tuple[int, int],
    memory_gb: float,
    gb_s: float,
    tflops: dict[str, float],
    source: str,
) -> Chip:
    flops = MappingProxyType({kind: rate * _TERA for kind, rate in tflops.items()})
    return Chip(name, driver_names, capability, int(memory_gb * _GIGA), gb_s * _GIGA, flops, source)


_HALF = ("float16", "bfloat16", "int8")

ARCHITECTURES: tuple[Architecture, ...] = (
    _architecture("Turing", 7, 5, "float16", "int8"),
    _architecture("Ampere", 8, 0, *_HALF),
    _architecture("Ampere", 8, 6, *_HALF),
    _architecture("Ada", 8, 9, *_HALF, "fp8"),
    _architecture("Hopper", 9, 0, *_HALF, "fp8"),
    _architecture("Blackwell", 10, 0, *_HALF, "fp8", "mxfp8", "mxfp4", "nvfp4"),
    _architecture("Blackwell", 10, 3, *_HALF, "fp8", "mxfp8", "mxfp4", "nvfp4"),
    _architecture("Blackwell", 12, 0, *_HALF, "fp8", "mxfp8", "mxfp4", "nvfp4"),
    _architecture("Blackwell", 12, 1, *_HALF, "fp8", "mxfp8", "mxfp4", "nvfp4"),
)

CHIPS: tuple[Chip, ...] = (
    _chip("T4", ("Tesla T4", "NVIDIA T4"), (7, 5), 16, 320, {"float32": 8.1, "float16": 65}, "T4 data sheet"),
    _chip(
        "A100 80GB SXM",
        ("NVIDIA A100-SXM4-80GB",),
        (8, 0),
        80,
        2039,
        {"float32": 19.5, "float16": 312, "bfloat16": 312},
        "A100 data sheet, SXM",
    ),
    _chip(
        "A100 80GB PCIe",
        ("NVIDIA A100 80GB PCIe", "NVIDIA A100-PCIE-80GB"),
        (8, 0),
        80,
        1935,
        {"float32": 19.5, "float16": 312, "bfloat16": 312},
        "A100 data sheet, PCIe",
    ),
    _chip(
        "L4",
        ("NVIDIA L4",),
        (8, 9),
        24,
        300,
        {"float32": 30.3, "float16": 121, "bfloat16": 121, "fp8": 242.5},
        "L4 data sheet, halved",
    ),
    _chip(
        "L40S",
        ("NVIDIA L40S",),
        (8, 9),
        48,
        864,
        {"float32": 91.6, "float16": 362, "bfloat16": 362, "fp8": 733},
        "L40S data sheet, without sparsity",
    ),
    _chip(
        "RTX 4090",
        ("NVIDIA GeForce RTX 4090",),
        (8, 9),
        24,
        1008,
        {"float32": 82.6, "float16": 165.2, "bfloat16": 165.2, "fp8": 330.3},
        "Ada white paper, float32 accumulation",
    ),
    _chip(
        "H100 SXM",
        ("NVIDIA H100 80GB HBM3",),
        (9, 0),
        80,
        3350,
        {"float32": 67, "float16": 989.5, "bfloat16": 989.5, "fp8": 1979},
        "H100 data sheet, SXM, halved",
    ),
    _chip(
        "H100 PCIe",
        ("NVIDIA H100 PCIe",),
        (9, 0),
        80,
        2000,
        {"float32": 51, "float16": 756, "bfloat16": 756, "fp8": 1513},
        "H100 data sheet, PCIe, halved",
    ),
    _chip(
        "H200",
        ("NVIDIA H200",),
        (9, 0),
        141,
        4800,
        {"float32": 67, "float16": 989.5, "bfloat16": 989.5, "fp8": 1979},
        "H200 data sheet, SXM, halved",
    ),
    _chip(
        "B200",
        ("NVIDIA B200",),
        (10, 0),
        180,
        8000,
        {"float32": 75, "float16": 2250, "bfloat16": 2250, "fp8": 4500, "nvfp4": 9000},
        "HGX B200 data sheet, one GPU of eight, without sparsity",
    ),
)


def chip(driver_name: str) -> Chip | None:
    """The table's row for the name that the driver reports, or None: laptop, export and MIG variants differ."""
    return next((row for row in CHIPS if driver_name in row.driver_names), None)


def architecture(capability: tuple[int, int]) -> Architecture | None:
    """What a compute capability brings, or None where the table does not know it."""
    return next((row for row in ARCHITECTURES if row.capability == capability), None)
