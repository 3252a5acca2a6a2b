"""Chips that come with their processor, on one board or in one package: GH200, GB200, GB10, Jetson, Rubin. Data, torch-free.

Which figures these are, and how they were checked, is said in `chips.py`. Open `SUPERCHIPS`.
"""

from __future__ import annotations

from redline.hardware.chips import Chip, board, product, rates
from redline.hardware.data_centre_cards import HOPPER_RATES

SUPERCHIPS: tuple[Chip, ...] = (
    product(
        ("GH200 96GB", "NVIDIA GH200 480GB"),
        (9, 0),
        (96, 4000, 97871),
        HOPPER_RATES,
        board(132, 60, 1000, pcie=5, nvlink=900, c2c=900),
        "NVIDIA GH200 data sheet, HBM3, halved; power is of processor and GPU together; L2 as of the H200",
        unverified=("l2_bytes",),
    ),
    product(
        ("GH200 144GB", "NVIDIA GH200 144G HBM3e"),
        (9, 0),
        (144, 4900),
        HOPPER_RATES,
        board(132, 60, 1000, pcie=5, nvlink=900, c2c=900),
        "NVIDIA GH200 data sheet, HBM3e, halved; power is of processor and GPU together; L2 as of the H200",
        unverified=("l2_bytes", "read_bytes_per_s"),
    ),
    product(
        ("GB200", "NVIDIA GB200"),
        (10, 0),
        (186, 8000, 189471),
        rates(2500, float32=80, tf32=1250, int8=5000, fp8=5000, nvfp4=10000),
        board(152, 126, 1200, pcie=5, nvlink=1800, c2c=450),
        "NVIDIA Blackwell data sheet, GB200 NVL72, one GPU of 72, without sparsity; two GPUs share a Grace's 900 GB/s; "
        "multiprocessors as its driver reports them; Blackwell Tuning Guide (L2)",
    ),
    product(
        ("GB10", "NVIDIA GB10"),
        (12, 1),
        (128, 273),
        rates(125, float32=31, fp8=250, nvfp4=500),
        board(48, 24, 140, unified=True),
        "NVIDIA DGX Spark data sheet and user guide, hardware overview (1 PFLOP/s fp4 with sparsity, halved; power of the package); "
        "GB10 at Hot Chips 2025 (31 TFLOP/s float32); 16-bit and fp8 are a quarter and a half of fp4, as on other 12.x (white paper "
        "of the RTX PRO cards); multiprocessors and L2 as its driver reports them. 16-bit is in doubt: NVIDIA aiconfigurator, "
        "gb10.yaml, has 213 for 16-bit as for fp8, from somebody's mmapeak; the best product that was found published reached 99.8",
        "float16",
        "bfloat16",
        "fp8",
        unverified=("float16", "bfloat16"),
    ),
    product(
        ("Jetson AGX Orin 64GB", "Orin (nvgpu)", "Orin"),
        (8, 7),
        (64, 204.8),
        rates(42.5, float32=5.3, int8=85),
        board(16, 4, 60, unified=True),
        "NVIDIA Jetson AGX Orin technical brief, 64 GB, halved (170 sparse int8 TOPS of its GPU); 16-bit is half of int8; power of "
        "the module",
        "float16",
        "bfloat16",
    ),
    product(
        ("Jetson AGX Thor", "NVIDIA Thor"),
        (11, 0),
        (128, 273),
        rates(258.8, float32=8, int8=517.5, fp8=517.5, nvfp4=1035),
        board(20, 32, 130, unified=True),
        "NVIDIA Jetson T5000 data sheet, dense (2,070 TFLOP/s fp4 with sparsity); fp8 and 16-bit are a half and a quarter of fp4; "
        "float32 from 2,560 lanes at 1.57 GHz; multiprocessors and L2 as its driver reports them (NVIDIA developer forum, topic "
        "356355); power of the module",
        "float16",
        "bfloat16",
        "fp8",
        "int8",
        "float32",
    ),
    product(
        ("Rubin R100",),
        None,
        (288, 22_000),
        rates(4000, float32=130, tf32=2000, fp8=17_500, nvfp4=35_000),
        board(224, None, None, nvlink=3600, c2c=900),
        "Announced, not measured: Vera Rubin NVL72 specifications (2026), one GPU of 72; fp4 is the dense figure that is named for "
        "training (50 PFLOP/s for inference count on compressible operands); multiprocessors: NVIDIA technical blog, Inside NVIDIA "
        "Rubin GPU Architecture (July 2026); two GPUs are taken to share a Vera's 1.8 TB/s",
        unverified=("c2c_bytes_per_s",),
    ),
)
