"""Tables of compute capabilities: what each generation's matrix units take and which instructions it has. Data, torch-free.

Nothing here is ordered: a later capability may lack what an earlier one has (wgmma exists on 9.0 alone, int4 products end
with 8.9, B300 lost its fast int8), so ask `native` and `instructions`, never "capability >= X". Open `Architecture`.

Sources, beside those of `ARCHITECTURES`' rows: CUDA C++ Programming Guide, "Compute Capabilities" (types of the matrix
units, shared memory per block, lanes per multiprocessor); PTX ISA 9.0, the "Target ISA Notes" of each instruction; the
release notes of the CUDA toolkits (which toolkit first, and last, makes code for a capability). Checked on 2026-11-21 against
NVIDIA's CCCL, which has them as code: cuda/__device/arch_traits.h (shared memory), cuda/__ptx/instructions/generated (targets
of setmaxnreg, multicast copies and tcgen05: none of the last two on 12.x); and LLVM's NVPTX.td (PTX version by capability) and
NVPTXSubtarget.h (tcgen05's `kind::i8`, where CCCL is lax).
"""

from __future__ import annotations

from dataclasses import dataclass

INSTRUCTIONS: dict[str, str] = {
    "dp4a": "four int8 products and their sum, in the plain lanes",
    "mma": "warp-wide matrix product (mma.sync)",
    "ldmatrix": "matrix tiles from shared memory to registers",
    "cp.async": "copies to shared memory that do not pass registers",
    "mbarrier": "barriers that count bytes and arrivals",
    "cluster": "clusters of blocks that see each other's shared memory",
    "tma": "bulk copies of whole tensor tiles (cp.async.bulk.tensor)",
    "tma.multicast": "one bulk copy into the shared memory of several blocks",
    "griddepcontrol": "programmatic dependent launch",
    "setmaxnreg": "registers moved between warps",
    "wgmma": "matrix product of four warps, operands in shared memory",
    "tcgen05": "matrix product of one thread's issue, sums in tensor memory",
    "mma.block_scale": "warp-wide product of block-scaled fp8, fp6 and fp4",
    "cvt.fp8": "conversions from and to fp8",
    "cvt.fp4": "conversions from and to fp4",
}
"""What kernels choose by, and what each is."""


@dataclass(frozen=True)
class Architecture:
    """One compute capability. `native` are the types its matrix units take at their own rate, plus float32.

    `instructions` are keys of `INSTRUCTIONS`. `first_cuda` and `last_cuda` are the toolkits that make code for it; None: not
    dropped yet. `shared_memory_bytes` is the most that one block may ask for, `lanes` are float32 lanes per multiprocessor.
    """

    name: str
    capability: tuple[int, int]
    native: frozenset[str]
    instructions: frozenset[str]
    shared_memory_bytes: int
    lanes: int
    first_cuda: tuple[int, int]
    last_cuda: tuple[int, int] | None = None


_TURING = ("dp4a", "mma", "ldmatrix")
_AMPERE = (*_TURING, "cp.async", "mbarrier")
_ADA = (*_AMPERE, "cvt.fp8")
_HOPPER = (*_ADA, "cluster", "tma", "tma.multicast", "griddepcontrol", "setmaxnreg")
_BLACKWELL = (*_HOPPER, "tcgen05", "cvt.fp4")
_BLACKWELL_RTX = (*_ADA, "cluster", "tma", "griddepcontrol", "setmaxnreg", "mma.block_scale", "cvt.fp4")

_HALF = ("float16", "bfloat16", "tf32")
_SMALL = ("fp8", "fp6", "mxfp8", "mxfp6", "mxfp4", "nvfp4")


def _row(
    name: str,
    capability: tuple[int, int],
    native: tuple[str, ...],
    instructions: tuple[str, ...],
    shared_kib: int,
    lanes: int,
    *cuda: tuple[int, int],
) -> Architecture:
    types = frozenset(("float32", *native))
    return Architecture(name, capability, types, frozenset(instructions), shared_kib << 10, lanes, *cuda)


ARCHITECTURES: tuple[Architecture, ...] = (
    _row("Volta", (7, 0), ("float16",), ("dp4a", "mma"), 96, 64, (9, 0), (12, 9)),
    _row("Turing", (7, 5), ("float16", "int8", "int4"), _TURING, 64, 64, (10, 0)),
    _row("Ampere", (8, 0), (*_HALF, "int8", "int4"), _AMPERE, 163, 64, (11, 0)),
    _row("Ampere", (8, 6), (*_HALF, "int8", "int4"), _AMPERE, 99, 128, (11, 1)),
    _row("Ampere", (8, 7), (*_HALF, "int8", "int4"), _AMPERE, 163, 128, (11, 4)),
    _row("Ada", (8, 9), (*_HALF, "int8", "int4", "fp8"), _ADA, 99, 128, (11, 8)),
    _row("Hopper", (9, 0), (*_HALF, "int8", "fp8"), (*_HOPPER, "wgmma"), 227, 128, (11, 8)),
    _row("Blackwell", (10, 0), (*_HALF, "int8", *_SMALL), _BLACKWELL, 227, 128, (12, 8)),
    # No int8: PTX's tcgen05 `kind::i8` names sm_100a and sm_110a only, and the Blackwell Ultra sheet gives int8 a 29th of fp8.
    _row("Blackwell", (10, 3), (*_HALF, *_SMALL), _BLACKWELL, 227, 128, (12, 9)),
    _row("Blackwell", (11, 0), (*_HALF, "int8", *_SMALL), _BLACKWELL, 227, 128, (13, 0)),
    _row("Blackwell", (12, 0), (*_HALF, "int8", *_SMALL), _BLACKWELL_RTX, 99, 128, (12, 8)),
    _row("Blackwell", (12, 1), (*_HALF, "int8", *_SMALL), _BLACKWELL_RTX, 99, 128, (12, 9)),
)


def architecture(capability: tuple[int, int] | None) -> Architecture | None:
    """What a compute capability brings, or None where the table does not know it."""
    return next((row for row in ARCHITECTURES if row.capability == capability), None)
