"""The table of chips: what makers' data sheets say of each product. Data, torch-free. Open `Chip`, then `CHIPS`.

Matrix rates are dense (no sparsity) with float32 (or int32) accumulation, in FLOP/s at boost clock; bandwidths in bytes/s;
memory as sold. A figure that no sheet gives is absent, never guessed: a type that is not in `flops` has no known rate. Where
a sheet quotes rates with sparsity they are halved, and where it quotes a board of eight or a rack, divided; the row's
`source` says so. `derived` names the types whose rate was reckoned from another figure of the same row.
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


def _rates(half: float | None = None, *, bf16: bool = True, **tflops: float) -> Mapping[str, float]:
    """FLOP/s by type from TFLOP/s; `half` is the rate of both 16-bit types, of float16 alone without `bf16`."""
    if half is not None:
        tflops["float16"] = half
        if bf16:
            tflops["bfloat16"] = half
    return MappingProxyType({kind: rate * _TERA for kind, rate in tflops.items()})


def _board(
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


def _chip(
    name: str,
    driver_names: tuple[str, ...],
    capability: tuple[int, int] | None,
    memory: tuple[float, float],
    flops: Mapping[str, float],
    board: Board,
    source: str,
    *derived: str,
) -> Chip:
    """`memory` is (GB, GB/s)."""
    size, rate, reported = int(memory[0] * _GIGA), memory[1] * _GIGA, _REPORTED_MIB.get(name)
    return Chip(
        name=name,
        driver_names=driver_names,
        capability=capability,
        memory_bytes=size,
        read_bytes_per_s=rate,
        flops=flops,
        board=board,
        source=source,
        derived=frozenset(derived),
        driver_memory_bytes=None if reported is None else reported << 20,
    )


# Memory in MiB as nvidia-smi prints it for such a card.
_REPORTED_MIB = {
    "T4": 15360,
    "A100 40GB SXM": 40960,
    "A100 80GB SXM": 81920,
    "A100 80GB PCIe": 81920,
    "L4": 23034,
    "L40S": 46068,
    "RTX 3090": 24576,
    "RTX 4090": 24564,
    "H100 SXM": 81559,
    "H100 PCIe": 81559,
    "H200": 143771,
    "B200": 183359,
}

_A100 = _rates(312, float32=19.5, tf32=156, int8=624, int4=1248)
_HOPPER = _rates(989.5, float32=67, tf32=494.7, fp8=1979, int8=1979)
_HOPPER_NVL = _rates(835.5, float32=60, tf32=417.7, fp8=1670.5, int8=1670.5)
_PRO_6000 = _rates(500, float32=125, tf32=250, int8=1000, fp8=1000, nvfp4=2000)

CHIPS: tuple[Chip, ...] = (
    _chip(
        "T4",
        ("Tesla T4", "NVIDIA T4"),
        (7, 5),
        (16, 320),
        _rates(65, bf16=False, float32=8.1, int8=130, int4=260),
        _board(40, 4, 70, pcie=3),
        "T4 data sheet; Turing white paper (L2)",
    ),
    _chip(
        "V100 16GB SXM2",
        ("Tesla V100-SXM2-16GB",),
        (7, 0),
        (16, 900),
        _rates(125, bf16=False, float32=15.7),
        _board(80, 6, 300, pcie=3, nvlink=300),
        "V100 data sheet, NVLink; Volta white paper (L2)",
    ),
    _chip(
        "V100 32GB SXM2",
        ("Tesla V100-SXM2-32GB",),
        (7, 0),
        (32, 900),
        _rates(125, bf16=False, float32=15.7),
        _board(80, 6, 300, pcie=3, nvlink=300),
        "V100 data sheet, NVLink; Volta white paper (L2)",
    ),
    _chip(
        "V100 16GB PCIe",
        ("Tesla V100-PCIE-16GB",),
        (7, 0),
        (16, 900),
        _rates(112, bf16=False, float32=14),
        _board(80, 6, 250, pcie=3),
        "V100 data sheet, PCIe; Volta white paper (L2)",
    ),
    _chip(
        "V100 32GB PCIe",
        ("Tesla V100-PCIE-32GB",),
        (7, 0),
        (32, 900),
        _rates(112, bf16=False, float32=14),
        _board(80, 6, 250, pcie=3),
        "V100 data sheet, PCIe; Volta white paper (L2)",
    ),
    _chip(
        "V100S PCIe",
        ("Tesla V100S-PCIE-32GB",),
        (7, 0),
        (32, 1134),
        _rates(130, bf16=False, float32=16.4),
        _board(80, 6, 250, pcie=3),
        "V100 data sheet, V100S; Volta white paper (L2)",
    ),
    _chip(
        "A10",
        ("NVIDIA A10",),
        (8, 6),
        (24, 600),
        _rates(125, float32=31.2, tf32=62.5, int8=250, int4=500),
        _board(72, 6, 150, pcie=4),
        "A10 data sheet; GA102 white paper (L2)",
    ),
    _chip(
        "A100 40GB SXM",
        ("NVIDIA A100-SXM4-40GB",),
        (8, 0),
        (40, 1555),
        _A100,
        _board(108, 40, 400, pcie=4, nvlink=600),
        "A100 data sheet, SXM; A100 white paper (int4, L2)",
    ),
    _chip(
        "A100 80GB SXM",
        ("NVIDIA A100-SXM4-80GB",),
        (8, 0),
        (80, 2039),
        _A100,
        _board(108, 40, 400, pcie=4, nvlink=600),
        "A100 data sheet, SXM; A100 white paper (int4, L2)",
    ),
    _chip(
        "A100 40GB PCIe",
        ("NVIDIA A100-PCIE-40GB",),
        (8, 0),
        (40, 1555),
        _A100,
        _board(108, 40, 250, pcie=4),
        "A100 data sheet, PCIe (its NVLink bridge is an option, left out); A100 white paper (int4, L2)",
    ),
    _chip(
        "A100 80GB PCIe",
        ("NVIDIA A100 80GB PCIe", "NVIDIA A100-PCIE-80GB"),
        (8, 0),
        (80, 1935),
        _A100,
        _board(108, 40, 300, pcie=4),
        "A100 data sheet, PCIe (its NVLink bridge is an option, left out); A100 white paper (int4, L2)",
    ),
    _chip(
        "L4",
        ("NVIDIA L4",),
        (8, 9),
        (24, 300),
        _rates(121, float32=30.3, tf32=60, fp8=242.5, int8=242.5),
        _board(58, 48, 72, pcie=4),
        "L4 data sheet, halved; Ada white paper (L2)",
    ),
    _chip(
        "L40S",
        ("NVIDIA L40S",),
        (8, 9),
        (48, 864),
        _rates(362, float32=91.6, tf32=183, fp8=733, int8=733),
        _board(142, 96, 350, pcie=4),
        "L40S data sheet, without sparsity; Ada white paper (L2)",
    ),
    _chip(
        "RTX 3090",
        ("NVIDIA GeForce RTX 3090",),
        (8, 6),
        (24, 936),
        _rates(71, float32=35.6, tf32=35.6, int8=284, int4=568),
        _board(82, 6, 350, pcie=4, nvlink=112.5),
        "GA102 white paper, float32 accumulation",
    ),
    _chip(
        "RTX 4090",
        ("NVIDIA GeForce RTX 4090",),
        (8, 9),
        (24, 1008),
        _rates(165.2, float32=82.6, tf32=82.6, fp8=330.3, int8=660.6, int4=1321.2),
        _board(128, 72, 450, pcie=4),
        "Ada white paper, float32 accumulation",
    ),
    _chip(
        "RTX 5090",
        ("NVIDIA GeForce RTX 5090",),
        (12, 0),
        (32, 1792),
        _rates(209.5, float32=104.8, tf32=104.8, fp8=419, int8=838, nvfp4=1676),
        _board(170, 96, 575, pcie=5),
        "RTX Blackwell white paper, float32 accumulation",
    ),
    _chip(
        "RTX PRO 6000",
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition",),
        (12, 0),
        (96, 1792),
        _PRO_6000,
        _board(188, 128, 600, pcie=5),
        "RTX PRO 6000 data sheet (125 TFLOP/s float32, 4,000 TFLOP/s fp4 with sparsity, halved); 8-bit and 16-bit are a half and a "
        "quarter of fp4 (NVIDIA cudnn-frontend, benchmark table of 12.x), tf32 half of 16-bit",
        "float16",
        "bfloat16",
        "tf32",
        "int8",
        "fp8",
    ),
    _chip(
        "RTX PRO 6000 Server",
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition",),
        (12, 0),
        (96, 1597),
        _PRO_6000,
        _board(188, 128, 600, pcie=5),
        "RTX PRO 6000 Server Edition data sheet (memory, power); rates of the Workstation Edition, of which it is no faster",
        "float16",
        "bfloat16",
        "tf32",
        "int8",
        "fp8",
        "nvfp4",
        "float32",
    ),
    _chip(
        "H100 SXM",
        ("NVIDIA H100 80GB HBM3",),
        (9, 0),
        (80, 3350),
        _HOPPER,
        _board(132, 50, 700, pcie=5, nvlink=900),
        "H100 data sheet, SXM, halved; H100 white paper (L2)",
    ),
    _chip(
        "H100 PCIe",
        ("NVIDIA H100 PCIe",),
        (9, 0),
        (80, 2000),
        _rates(756, float32=51, tf32=378, fp8=1513, int8=1513),
        _board(114, 50, 350, pcie=5),
        "H100 data sheet, PCIe, halved (its NVLink bridge is an option, left out); H100 white paper (L2)",
    ),
    _chip(
        "H100 NVL",
        ("NVIDIA H100 NVL",),
        (9, 0),
        (94, 3900),
        _HOPPER_NVL,
        _board(132, 50, 400, pcie=5, nvlink=600),
        "H100 data sheet, NVL, halved; H100 white paper (L2)",
    ),
    _chip(
        "H200",
        ("NVIDIA H200",),
        (9, 0),
        (141, 4800),
        _HOPPER,
        _board(132, 60, 700, pcie=5, nvlink=900),
        "H200 data sheet, SXM, halved; L2 and multiprocessors as the driver of such a card reports them",
    ),
    _chip(
        "H200 NVL",
        ("NVIDIA H200 NVL",),
        (9, 0),
        (141, 4800),
        _HOPPER_NVL,
        _board(132, 60, 600, pcie=5, nvlink=900),
        "H200 data sheet, NVL, halved; L2 and multiprocessors as of the SXM card",
    ),
    _chip(
        "GH200 96GB",
        ("NVIDIA GH200 480GB",),
        (9, 0),
        (96, 4000),
        _HOPPER,
        _board(132, 60, 1000, pcie=5, nvlink=900, c2c=900),
        "GH200 data sheet, HBM3, halved; power is of processor and GPU together",
    ),
    _chip(
        "GH200 144GB",
        ("NVIDIA GH200 144G HBM3e",),
        (9, 0),
        (144, 4900),
        _HOPPER,
        _board(132, 60, 1000, pcie=5, nvlink=900, c2c=900),
        "GH200 data sheet, HBM3e, halved; power is of processor and GPU together",
    ),
    _chip(
        "B200",
        ("NVIDIA B200",),
        (10, 0),
        (180, 8000),
        _rates(2250, float32=75, tf32=1125, int8=4500, fp8=4500, nvfp4=9000),
        _board(148, 126, 1000, pcie=5, nvlink=1800),
        "HGX B200 data sheet, one GPU of eight, without sparsity; multiprocessors and L2 as its driver reports them",
    ),
    _chip(
        "GB200",
        ("NVIDIA GB200",),
        (10, 0),
        (186, 8000),
        _rates(2500, float32=80, tf32=1250, int8=5000, fp8=5000, nvfp4=10000),
        _board(152, 126, 1200, pcie=5, nvlink=1800, c2c=450),
        "GB200 NVL72 data sheet, one GPU of 72, without sparsity; two GPUs share a Grace's 900 GB/s; multiprocessors and L2 as its "
        "driver reports them",
    ),
    _chip(
        "B300",
        ("NVIDIA B300 SXM6 AC",),
        (10, 3),
        (288, 8000),
        _rates(2250, float32=75, tf32=1125, fp8=4500, nvfp4=13125),
        _board(148, 126, 1100, pcie=6, nvlink=1800),
        "HGX B300 data sheet, one GPU of eight, without sparsity (105 PFLOP/s fp4 dense a board); L2 as of B200",
    ),
    _chip(
        "GB10",
        ("NVIDIA GB10",),
        (12, 1),
        (128, 273),
        _rates(125, float32=29.7, fp8=250, nvfp4=500),
        _board(48, 24, 140, unified=True),
        "DGX Spark data sheet (1 PFLOP/s fp4 with sparsity, halved); 16-bit and fp8 are a quarter and a half of fp4, as on all 12.x "
        "(NVIDIA cudnn-frontend, benchmark table); float32 from 6,144 lanes at the clock its driver reports; power of the package",
        "float16",
        "bfloat16",
        "fp8",
        "float32",
    ),
    _chip(
        "Jetson AGX Orin 64GB",
        ("Orin (nvgpu)", "Orin"),
        (8, 7),
        (64, 204.8),
        _rates(42.5, float32=5.3, int8=85),
        _board(16, 4, 60, unified=True),
        "Jetson AGX Orin technical brief, 64 GB, halved (170 sparse int8 TOPS of its GPU); 16-bit is half of int8; power of the module",
        "float16",
        "bfloat16",
    ),
    _chip(
        "Jetson AGX Thor",
        ("NVIDIA Thor",),
        (11, 0),
        (128, 273),
        _rates(258.8, float32=8, int8=517.5, fp8=517.5, nvfp4=1035),
        _board(20, 32, 130, unified=True),
        "Jetson Thor T5000 data sheet, dense (2,070 TFLOP/s fp4 with sparsity); fp8 and 16-bit are a half and a quarter of fp4; float32 "
        "from 2,560 lanes at 1.57 GHz; L2 as its driver reports it; power of the module",
        "float16",
        "bfloat16",
        "fp8",
        "int8",
        "float32",
    ),
    Chip(
        name="Rubin R100",
        driver_names=(),
        capability=None,
        memory_bytes=int(288 * _GIGA),
        read_bytes_per_s=22_000 * _GIGA,
        flops=_rates(4000, float32=130, tf32=2000, fp8=17_500, nvfp4=50_000),
        board=_board(None, None, None, nvlink=3600, c2c=900),
        source="Announced, not measured: Vera Rubin NVL72 preliminary figures (2026), one GPU of 72; fp4 is the inference figure (35 "
        "PFLOP/s are named for training), two GPUs share a Vera's 1.8 TB/s",
        announced=True,
    ),
)
"""One row per product that planning is done for. Rows that a driver names differently (laptop, export and MIG variants, other
memory sizes) are other products: they are not here, and `specs.chip` does not find them."""
