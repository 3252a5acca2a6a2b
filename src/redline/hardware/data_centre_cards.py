"""Chips that stand in servers beside a processor of another maker: T4 to B300. Data, torch-free. Open `DATA_CENTRE_CARDS`.

Which figures these are, and how they were checked, is said in `chips.py`.
"""

from __future__ import annotations

from redline.hardware.chips import Chip, board, product, rates

_V100 = "NVIDIA V100 data sheet, specifications, {}; Volta GV100 white paper, table 1 (L2)"
_A100 = rates(312, float32=19.5, tf32=156, int8=624, int4=1248)
_A100_SXM = "NVIDIA A100 data sheet, SXM; GA100 white paper, table 1 (int4, L2)"
_A100_PCIE = "NVIDIA A100 data sheet, PCIe (its NVLink bridge is an option, left out); GA100 white paper, table 1 (int4, L2)"
HOPPER_RATES = rates(989.5, float32=67, tf32=494.7, fp8=1979, int8=1979)
_HOPPER_NVL = rates(835.5, float32=60, tf32=417.7, fp8=1670.5, int8=1670.5)

DATA_CENTRE_CARDS: tuple[Chip, ...] = (
    product(
        ("T4", "Tesla T4", "NVIDIA T4"),
        (7, 5),
        (16, 320, 15360),
        rates(65, bf16=False, float32=8.1, int8=130, int4=260),
        board(40, 4, 70, pcie=3),
        "NVIDIA T4 data sheet, specifications; Turing white paper, TU104 (L2)",
    ),
    product(
        ("V100 16GB SXM2", "Tesla V100-SXM2-16GB"),
        (7, 0),
        (16, 900),
        rates(125, bf16=False, float32=15.7),
        board(80, 6, 300, pcie=3, nvlink=300),
        _V100.format("NVLink"),
    ),
    product(
        ("V100 32GB SXM2", "Tesla V100-SXM2-32GB"),
        (7, 0),
        (32, 900),
        rates(125, bf16=False, float32=15.7),
        board(80, 6, 300, pcie=3, nvlink=300),
        _V100.format("NVLink"),
    ),
    product(
        ("V100 16GB PCIe", "Tesla V100-PCIE-16GB"),
        (7, 0),
        (16, 900),
        rates(112, bf16=False, float32=14),
        board(80, 6, 250, pcie=3),
        _V100.format("PCIe"),
    ),
    product(
        ("V100 32GB PCIe", "Tesla V100-PCIE-32GB"),
        (7, 0),
        (32, 900),
        rates(112, bf16=False, float32=14),
        board(80, 6, 250, pcie=3),
        _V100.format("PCIe"),
    ),
    product(
        ("V100S PCIe", "Tesla V100S-PCIE-32GB"),
        (7, 0),
        (32, 1134),
        rates(130, bf16=False, float32=16.4),
        board(80, 6, 250, pcie=3),
        _V100.format("V100S"),
    ),
    product(
        ("A10", "NVIDIA A10"),
        (8, 6),
        (24, 600),
        rates(125, float32=31.2, tf32=62.5, int8=250, int4=500),
        board(72, 6, 150, pcie=4),
        "NVIDIA A10 data sheet, specifications, without sparsity; GA102 white paper, table of full GA102 (L2)",
    ),
    product(
        ("A100 40GB SXM", "NVIDIA A100-SXM4-40GB"),
        (8, 0),
        (40, 1555, 40960),
        _A100,
        board(108, 40, 400, pcie=4, nvlink=600),
        _A100_SXM,
    ),
    product(
        ("A100 80GB SXM", "NVIDIA A100-SXM4-80GB"),
        (8, 0),
        (80, 2039, 81920),
        _A100,
        board(108, 40, 400, pcie=4, nvlink=600),
        _A100_SXM,
    ),
    product(
        ("A100 40GB PCIe", "NVIDIA A100-PCIE-40GB"),
        (8, 0),
        (40, 1555),
        _A100,
        board(108, 40, 250, pcie=4),
        _A100_PCIE,
    ),
    product(
        ("A100 80GB PCIe", "NVIDIA A100 80GB PCIe", "NVIDIA A100-PCIE-80GB"),
        (8, 0),
        (80, 1935, 81920),
        _A100,
        board(108, 40, 300, pcie=4),
        _A100_PCIE,
    ),
    product(
        ("L4", "NVIDIA L4"),
        (8, 9),
        (24, 300, 23034),
        rates(121, float32=30.3, tf32=60, fp8=242.5, int8=242.5),
        board(58, 48, 72, pcie=4),
        "NVIDIA L4 data sheet, specifications, halved; Ada white paper, AD104 (L2); 7,424 lanes (multiprocessors)",
    ),
    product(
        ("L40S", "NVIDIA L40S"),
        (8, 9),
        (48, 864, 46068),
        rates(362.05, float32=91.6, tf32=183, fp8=733, int8=733),
        board(142, 96, 350, pcie=4),
        "NVIDIA L40S data sheet, specifications, without sparsity; Ada white paper, AD102 (L2)",
    ),
    product(
        ("H100 SXM", "NVIDIA H100 80GB HBM3"),
        (9, 0),
        (80, 3350, 81559),
        HOPPER_RATES,
        board(132, 50, 700, pcie=5, nvlink=900),
        "NVIDIA H100 data sheet, SXM, halved; Hopper Tuning Guide (L2)",
    ),
    product(
        ("H100 PCIe", "NVIDIA H100 PCIe"),
        (9, 0),
        (80, 2000, 81559),
        rates(756, float32=51, tf32=378, fp8=1513, int8=1513),
        board(114, 50, 350, pcie=5),
        "NVIDIA H100 data sheet, PCIe, halved (its NVLink bridge is an option, left out); Hopper Tuning Guide (L2)",
    ),
    product(
        ("H100 NVL", "NVIDIA H100 NVL"),
        (9, 0),
        (94, 3900, 95830),
        _HOPPER_NVL,
        board(132, 60, 400, pcie=5, nvlink=600),
        "NVIDIA H100 data sheet, NVL, halved; L2: published readings differ (50 and 60 MB), and a GH100 with all six stacks of memory, "
        "the H200, reports 60",
        unverified=("l2_bytes",),
    ),
    product(
        ("H200", "NVIDIA H200"),
        (9, 0),
        (141, 4800, 143771),
        HOPPER_RATES,
        board(132, 60, 700, pcie=5, nvlink=900),
        "NVIDIA H200 data sheet, SXM, halved; L2 and multiprocessors as the driver of such a card reports them",
    ),
    product(
        ("H200 NVL", "NVIDIA H200 NVL"),
        (9, 0),
        (141, 4800),
        _HOPPER_NVL,
        board(132, 60, 600, pcie=5, nvlink=900),
        "NVIDIA H200 data sheet, NVL, halved; multiprocessors as its driver reports them, L2 as of the SXM card",
        unverified=("l2_bytes",),
    ),
    product(
        ("B200", "NVIDIA B200"),
        (10, 0),
        (180, 7700, 183359),
        rates(2250, float32=75, tf32=1125, int8=4500, fp8=4500, nvfp4=9000),
        board(148, 126, 1000, pcie=5, nvlink=1800),
        "NVIDIA Blackwell data sheet, HGX B200, one GPU of eight, without sparsity (7.7 TB/s; the 8 TB/s of other sheets are rounded: "
        "its driver reports 7,680 bits at 3,996 MHz, 7.67 TB/s: pytorch/ao pull request 4002, which has multiprocessors and L2, too); "
        "PCIe 6 on the sheet, 5 on the processors that HGX B200 is sold with",
    ),
    product(
        ("B300", "NVIDIA B300 SXM6 AC"),
        (10, 3),
        (270, 7700, 275040),
        rates(2250, float32=75, tf32=1125, fp8=4500, nvfp4=13500),
        board(148, 126, 1100, pcie=6, nvlink=1800),
        "NVIDIA Blackwell Ultra data sheet, HGX B300, one GPU of eight, without sparsity (270 GB are GiB; 62 TB/s and 108 PFLOP/s fp4 "
        "a board); multiprocessors as its driver reports them; L2 as of B200 (one reading says so, another page 192 MB)",
        unverified=("l2_bytes",),
    ),
)
