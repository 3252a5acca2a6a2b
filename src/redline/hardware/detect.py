"""Looks at the machine once: `detect`. Torch-free, holds no CUDA context, never fails for want of hardware.

What cannot be found out ends in `Machine.notes` with its reason. Open `detect`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from redline.hardware.host import read_cpu, read_memory
from redline.hardware.machine import Gpu, Machine
from redline.hardware.nvml import NoDriver, Nvml, NvmlUnavailable, connect, read_gpus


def detect(
    *,
    proc: Path = Path("/proc"),
    sys: Path = Path("/sys"),
    nvml: Callable[[], Nvml] = connect,
    visible: str | None = None,
) -> Machine:
    """Processor, memory and GPUs of this machine.

    `visible` is the value of CUDA_VISIBLE_DEVICES where it is set, so that `cuda:N` means the same GPU here and in
    torch. A machine without a GPU, or with a broken driver, has no GPUs and a note that says why.
    """
    notes: list[str] = []
    faults: list[str] = []
    gpus: tuple[Gpu, ...] = ()
    try:
        gpus = read_gpus(nvml(), visible)
        if not gpus:
            notes.append("no GPU: the driver lists none" if visible is None else "no GPU: CUDA_VISIBLE_DEVICES names none")
    except NoDriver as reason:
        notes.append(f"no GPU: {reason}")
    except NvmlUnavailable as reason:
        faults.append(f"no GPU: {reason}")
    memory_bytes, available_bytes = read_memory(proc, sys)
    if memory_bytes == 0:
        faults.append(f"memory is unknown: {proc / 'meminfo'} cannot be read")
    return Machine(
        cpu=read_cpu(proc, sys),
        gpus=gpus,
        memory_bytes=memory_bytes,
        available_bytes=available_bytes,
        notes=(*notes, *faults),
        faults=tuple(faults),
    )
