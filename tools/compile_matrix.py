"""Compile every Triton kernel for every chip of `redline.ops.TARGETS`, without a GPU: `python tools/compile_matrix.py`.

The kernels are reached through the very launchers that serve, on CPU tensors made by each op's record, under a driver that
names a chip and a launch that stops after compiling. So what is compiled is what runs: the same specialisation, tiles and
flags. Held against each binary: shared memory within the chip's limit, nothing spilled to local memory, and a matrix
instruction wherever a kernel multiplies matrices of a 16-bit type on a chip whose table entry promises one (and none where
it promises none: Triton 3.6 compiles `tl.dot` for sm_75 to multiply-adds). Exits 3 where something is broken; the last
line is one JSON document. Knows nothing of the kernels themselves. Read `compile_chip`, then `faults`.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from redline.ops import TARGETS, Target

PROCESSORS = 108
"""Of the pretended card: enough that short decode contexts are split as they are on a real one."""

MOST_REGISTERS = 255
WORDS_BY_CHOICE = 16
"""Bytes. Below the register limit the assembler sometimes moves a word or two of loop invariants to the stack, where that
lets one more block share the processor; no option of it says otherwise. At the limit, or beyond this, it is a spill."""

MATRIX_INSTRUCTION = re.compile(r"\b(wgmma|mma\.sync|tcgen05\.mma)\b")


@dataclass(frozen=True)
class Compiled:
    """One kernel for one chip, as the assembler left it."""

    capability: int
    op: str
    dtype: str
    case: str
    kernel: str
    shared_bytes: int
    registers: int
    stack_bytes: int
    has_dot: bool
    matrix: bool

    def faults(self) -> Iterator[str]:
        """What is wrong with it, as sentences."""
        target = TARGETS[self.capability]
        place = f"sm_{self.capability} {self.op} {self.dtype} {self.case} {self.kernel}"
        if self.shared_bytes > target.shared_bytes:
            yield f"{place}: {self.shared_bytes} bytes of shared memory, the chip has {target.shared_bytes}"
        if self.stack_bytes > (0 if self.registers == MOST_REGISTERS else WORDS_BY_CHOICE):
            yield f"{place}: {self.stack_bytes} bytes of stack with {self.registers} registers: it spills"
        expected = self.has_dot and self.dtype != "f32" and target.matrix != ""
        if self.matrix != expected:
            yield f"{place}: {'no' if expected else 'a'} matrix instruction"


class ChipDriver:
    """What Triton asks of a GPU driver while it compiles. The device's number is the chip's: caches stay apart."""

    def __init__(self, capability: int):
        from triton.backends.compiler import GPUTarget

        self.capability = capability
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_chip(capability: int, quick: bool) -> list[Compiled]:
    """Every kernel in every type and case (with `quick`, one type and a case of each kind) for one chip."""
    import torch
    from triton.runtime.driver import driver
    from triton.runtime.jit import JITFunction, KernelInterface

    from redline.kernels import all_specs, op

    target = TARGETS[capability]
    driver.set_active(ChipDriver(capability))
    op.device_of = lambda device: op.Device(target, PROCESSORS)  # type: ignore[assignment]
    launched: list[Any] = []

    def compile_only(kernel: JITFunction[Any], grid: Any, *args: Any, **kwargs: Any) -> None:
        launched.append(kernel.run(*args, grid=grid, warmup=True, **kwargs))

    KernelInterface.__getitem__ = lambda kernel, grid: partial(compile_only, kernel, grid)
    results: dict[str, Compiled] = {}
    for spec in all_specs().values():
        if spec.triton is None:
            continue
        launcher = spec.triton_launcher()
        dtypes = [dtype for dtype in spec.op.dtypes if dtype in target.dtypes]
        for dtype in dtypes[-1:] if quick else dtypes:
            for case in cases(spec.cases, quick):
                inputs = spec.make_inputs(case, op.DTYPES[dtype], torch.device("cpu"), 0)
                launched.clear()
                launcher(**inputs)
                label = " ".join(f"{axis}={value}" for axis, value in case.items())
                for kernel in launched:
                    results.setdefault(kernel.hash, _examine(kernel, target, spec.name, dtype, label))
    return list(results.values())


def cases(every: tuple[Mapping[str, int], ...], quick: bool) -> Iterator[Mapping[str, int]]:
    """All cases; with `quick` the largest of an op, and for attention those of the two largest head sizes."""
    for number, case in enumerate(every):
        if not quick or number == len(every) - 1 or ("W" in case and case["H"] >= 128):
            yield case


def _examine(kernel: Any, target: Target, name: str, dtype: str, label: str) -> Compiled:
    usage = _resources(kernel.asm["cubin"])
    return Compiled(
        capability=target.capability,
        op=name,
        dtype=dtype,
        case=label,
        kernel=kernel.metadata.name,
        shared_bytes=kernel.metadata.shared,
        registers=usage["REG"],
        stack_bytes=usage["STACK"] + usage["LOCAL"],
        has_dot="tt.dot" in kernel.asm["ttir"],
        matrix=MATRIX_INSTRUCTION.search(kernel.asm["ptx"]) is not None,
    )


def _resources(cubin: bytes) -> dict[str, int]:
    """REG, STACK, LOCAL ... of the one kernel of a binary, from the assembler's own tables."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        listing = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return {key: int(value) for key, value in re.findall(r"\b([A-Z]+):(\d+)", listing)}


def compile_all(capabilities: list[int], quick: bool, processes: int) -> list[Compiled]:
    """The matrix, `processes` chips at a time."""
    work: Callable[[int], list[Compiled]] = partial(compile_chip, quick=quick)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        return [compiled for chip in pool.map(work, capabilities) for compiled in chip]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one type and a case of each kind instead of all")
    parser.add_argument("--chip", type=int, action="append", choices=tuple(TARGETS), help="only this chip; may repeat")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="list every kernel in the document")
    arguments = parser.parse_args()
    began = time.monotonic()
    compiled = compile_all(arguments.chip or list(TARGETS), arguments.quick, arguments.processes)
    faults = [fault for one in compiled for fault in one.faults()]
    for fault in faults:
        print(fault, file=sys.stderr)
    document: dict[str, object] = {"kernels": len(compiled), "faults": faults, "seconds": round(time.monotonic() - began, 1)}
    if arguments.json:
        document["compiled"] = [asdict(one) for one in compiled]
    print(json.dumps(document))
    return 3 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
