"""Chips of workstations and desktops, and the server form of one: RTX 3090 to RTX PRO 6000. Data, torch-free.

Which figures these are, and how they were checked, is said in `chips.py`. GeForce cards add up in float32 at half the rate of
float16, which their sheets' headline figures do not show; the PRO cards do not. A GeForce card may run well above the boost
clock of its sheet: an RTX 5090 was seen at 2.88 GHz of 2.41 (Neroued/ninfer, pull request 160). Open `DESKTOP_CARDS`.
"""

from __future__ import annotations

from redline.hardware.chips import Chip, board, product, rates

DESKTOP_CARDS: tuple[Chip, ...] = (
    product(
        ("RTX 3090", "NVIDIA GeForce RTX 3090"),
        (8, 6),
        (24, 936, 24576),
        rates(71, float32=35.6, tf32=35.6, int8=284, int4=568),
        board(82, 6, 350, pcie=4, nvlink=112.5),
        "NVIDIA GA102 white paper, appendix A, float32 accumulation, without sparsity",
    ),
    product(
        ("RTX 4090", "NVIDIA GeForce RTX 4090"),
        (8, 9),
        (24, 1008, 24564),
        rates(165.2, float32=82.6, tf32=82.6, fp8=330.3, int8=660.6, int4=1321.2),
        board(128, 72, 450, pcie=4),
        "NVIDIA Ada white paper, appendix A, float32 accumulation, without sparsity",
    ),
    product(
        ("RTX 5090", "NVIDIA GeForce RTX 5090"),
        (12, 0),
        (32, 1792),
        rates(209.5, float32=104.8, tf32=104.8, fp8=419, int8=838, nvfp4=1676),
        board(170, 96, 575, pcie=5),
        "NVIDIA RTX Blackwell GPU architecture white paper, appendix A, float32 accumulation, without sparsity (pytorch/ao, "
        "roofline_utils.py, takes 16-bit, fp8 and fp4 from it)",
    ),
    product(
        ("RTX PRO 6000", "NVIDIA RTX PRO 6000 Blackwell Workstation Edition"),
        (12, 0),
        (96, 1792, 97887),
        rates(503.8, float32=126, tf32=251.9, int8=1007.6, fp8=1007.6, nvfp4=2015.2),
        board(188, 128, 600, pcie=5),
        "NVIDIA RTX Blackwell PRO GPU architecture white paper, appendix A, table 4, Workstation Edition, without sparsity "
        "(NVIDIA cudnn-frontend, pull request 597, takes its rates from there)",
    ),
    product(
        ("RTX PRO 6000 Server", "NVIDIA RTX PRO 6000 Blackwell Server Edition"),
        (12, 0),
        (96, 1597, 97887),
        rates(468, float32=120, tf32=234, int8=936, fp8=936, nvfp4=1871),
        board(188, 128, 600, pcie=5),
        "NVIDIA RTX PRO 6000 Blackwell Server Edition data sheet, specifications (memory, power, float32, tf32; its 1, 2 and 4 "
        "PFLOP/s are with sparsity, and rounded); others by the white paper's rates a clock at the 2,430 MHz that its driver reports "
        "(NVIDIA aiconfigurator, rtx_pro_6000_server.yaml), at which tf32 is the sheet's 234",
        "float16",
        "bfloat16",
        "int8",
        "fp8",
        "nvfp4",
    ),
)
