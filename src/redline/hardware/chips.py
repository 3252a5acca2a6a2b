"""What a row of the tables of chips is, and how one is written. Data, torch-free. Open `Chip`; `specs.CHIPS` has them all.

Matrix rates are dense (no sparsity) with float32 (or int32) accumulation, in FLOP/s at boost clock; bandwidths in bytes/s;
memory as sold. A figure that no sheet gives is absent, never guessed: a type that is not in `flops` has no known rate. Where
a sheet quotes rates with sparsity they are halved, and where it quotes a board of eight or a rack, divided; the row's
`source` says so. `derived` names the types whose rate was reckoned from another figure of the same row, `unverified` what is
in the row but was found in no document of its maker, nor in code or a reading of a device that quotes one.

How the rows were checked (2026-11-21): the makers' PDFs lie in no store that was at hand. Each figure was held against what
the makers' own code and guides take from them, or against a driver's answer that somebody published, and the source names the
document to look it up in. Beside those that rows name: NVIDIA TensorRT-LLM, auto_parallel/cluster_info.py (A10, A100, L4, L40S,
H100, H200: rates, bandwidths, and per multiprocessor for 7.0 to 9.0); NVIDIA aiconfigurator, systems/*.yaml (A100, L4, L40S,
H100, H200, B200, GB200, B300, RTX PRO 6000 Server); Blackwell Tuning Guide (L2 of GB200, shared memory of 10.0); Hopper and
Ampere Tuning Guides (L2 and shared memory of H100 and A100).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from redline.hardware.architectures import Architecture, architecture

_TERA = 1e12
_GIGA = 1e9

PCIE_LANE_BYTES_PER_S = MappingProxyType({1: 0.25e9, 2: 0.5e9, 3: 0.985e9, 4: 1.969e9, 5: 3.938e9, 6: 7.563e9})
"""One lane, one direction, by generation, after line coding (PCI-SIG: 2.5, 5, 8, 16, 32 and 64 GT/s)."""


@dataclass(frozen=True)
class Board:
    """What surrounds the multiprocessors. None: no such part, or its maker does not say.

    `link_bytes_per_s` is NVLink to other GPUs, all links together, one direction (sheets quote both); `c2c_bytes_per_s` the
    chip-to-chip link to a Grace or Vera processor, one direction. `unified`: processor and GPU share one memory.
    """

    sms: int | None
    l2_bytes: int | None
    power_w: float | None  # most the board is sold with
    pcie_gen: int | None = None
    pcie_lanes: int = 16
    link_bytes_per_s: float | None = None
    c2c_bytes_per_s: float | None = None
    unified: bool = False


@dataclass(frozen=True)
class Chip:
    """One product. `driver_names` are the names its driver reports; `flops` are dense rates by type.

    `capability` is None where its maker has not published it. `announced`: figures of a product not yet sold.
    `driver_memory_bytes` is what drivers report of the memory (ECC on), where that is known: sheets round, and some count GiB.
    `derived` and `unverified` are types of `flops`; the latter also fields of this class and of `Board`.
    """

    name: str
    driver_names: tuple[str, ...]
    capability: tuple[int, int] | None
    memory_bytes: int
    read_bytes_per_s: float
    flops: Mapping[str, float]
    board: Board
    source: str
    derived: frozenset[str] = frozenset()
    unverified: frozenset[str] = frozenset()
    announced: bool = False
    driver_memory_bytes: int | None = None

    @property
    def architecture(self) -> Architecture | None:
        return architecture(self.capability)

    @property
    def native(self) -> frozenset[str]:
        """Types the matrix units take; where the capability is unknown, those its maker gives a rate for."""
        known = self.architecture
        return known.native if known else frozenset(self.flops)

    @property
    def instructions(self) -> frozenset[str]:
        """Keys of `architectures.INSTRUCTIONS`; none are assumed where the capability is unknown."""
        known = self.architecture
        return known.instructions if known else frozenset()

    @property
    def shared_memory_bytes(self) -> int | None:
        """Most that one block may ask for."""
        known = self.architecture
        return known.shared_memory_bytes if known else None

    @property
    def host_bytes_per_s(self) -> float | None:
        """Line rate between host memory and this GPU, one direction; None on a unified memory, which copies nothing."""
        board = self.board
        if board.unified:
            return None
        if board.c2c_bytes_per_s is not None:
            return board.c2c_bytes_per_s
        return None if board.pcie_gen is None else PCIE_LANE_BYTES_PER_S[board.pcie_gen] * board.pcie_lanes


def rates(half: float | None = None, *, bf16: bool = True, **tflops: float) -> Mapping[str, float]:
    """FLOP/s by type from TFLOP/s; `half` is the rate of both 16-bit types, of float16 alone without `bf16`."""
    if half is not None:
        tflops["float16"] = half
        if bf16:
            tflops["bfloat16"] = half
    return MappingProxyType({kind: rate * _TERA for kind, rate in tflops.items()})


def board(
    sms: int | None,
    l2_mib: float | None,
    power_w: float | None,
    *,
    pcie: int | None = None,
    nvlink: float | None = None,
    c2c: float | None = None,
    unified: bool = False,
) -> Board:
    """`nvlink` and `c2c` are GB/s of both directions, as sheets quote them."""
    return Board(
        sms=sms,
        l2_bytes=None if l2_mib is None else int(l2_mib * (1 << 20)),
        power_w=power_w,
        pcie_gen=pcie,
        link_bytes_per_s=None if nvlink is None else nvlink * _GIGA / 2,
        c2c_bytes_per_s=None if c2c is None else c2c * _GIGA / 2,
        unified=unified,
    )


def product(
    names: tuple[str, ...],
    capability: tuple[int, int] | None,
    memory: tuple[float, float] | tuple[float, float, int],
    flops: Mapping[str, float],
    board: Board,
    source: str,
    *derived: str,
    unverified: tuple[str, ...] = (),
) -> Chip:
    """`names` are the row's own, then its driver's; `memory` is (GB, GB/s) and, where known, the MiB that nvidia-smi prints.

    A product without a capability is an announced one.
    """
    return Chip(
        name=names[0],
        driver_names=names[1:],
        capability=capability,
        memory_bytes=int(memory[0] * _GIGA),
        read_bytes_per_s=memory[1] * _GIGA,
        flops=flops,
        board=board,
        source=source,
        derived=frozenset(derived),
        unverified=frozenset(unverified),
        announced=capability is None,
        driver_memory_bytes=memory[2] << 20 if len(memory) == 3 else None,
    )
