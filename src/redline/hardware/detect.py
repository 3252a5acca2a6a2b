"""Looks at the machine once: `detect`. Torch-free, holds no CUDA context, never fails for want of hardware.

What cannot be found out ends in `Machine.notes`, or in the record's `untold`, with its reason. Open `detect`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from redline.hardware import system
from redline.hardware.drivers import torch_build
from redline.hardware.host import read_cpu, read_memory
from redline.hardware.machine import Driver, Gpu, GpuPath, Machine, TorchBuild
from redline.hardware.nvml import NoDriver, Nvml, NvmlUnavailable, connect, read_gpus, read_paths, silent


@dataclass
class _Remarks:
    """`notes` are sentences about what is not there; `faults` what should be mended; `broken` what keeps a GPU from use."""

    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    untold: list[tuple[str, str]] = field(default_factory=list)


def detect(
    *,
    proc: Path = Path("/proc"),
    sys: Path = Path("/sys"),
    root: Path = Path("/"),
    nvml: Callable[[], Nvml] = connect,
    torch: Callable[[], TorchBuild | None] = torch_build,
    visible: str | None = None,
    models: Path | None = None,
) -> Machine:
    """Processor, memory, GPUs and disks of this machine.

    `visible` is the value of CUDA_VISIBLE_DEVICES where it is set, so that `cuda:N` means the same GPU here and in
    torch. `models` is the folder whose disk is looked at. A machine without a GPU, or with a broken driver, has no GPUs and
    a note that says why.
    """
    remarks = _Remarks()
    memory_bytes, available_bytes = read_memory(proc, sys)
    gpus, paths, driver = _gpus(nvml, visible, (memory_bytes, available_bytes), remarks, (proc, sys))
    if memory_bytes == 0:
        remarks.faults.append(f"memory is unknown: {proc / 'meminfo'} cannot be read")
    disks = system.read_disks(sys)
    if disks is None:
        remarks.untold.append(("disks", f"{sys / 'block'} cannot be read"))
    product = system.product(sys, proc)
    if product is None:
        remarks.untold.append(("product", f"neither the device tree nor {sys / 'class/dmi/id'} can be read"))
    container = system.in_container(root, proc)
    names = None if container else proc  # inside a container the driver's process numbers, the host's, name other programs
    return Machine(
        cpu=read_cpu(proc, sys),
        gpus=tuple(_placed(gpu, names, sys) for gpu in gpus),
        memory_bytes=memory_bytes,
        available_bytes=available_bytes,
        notes=(*remarks.notes, *remarks.faults, *remarks.broken),
        faults=(*remarks.faults, *remarks.broken),
        broken=tuple(remarks.broken),
        product=product,
        kernel=system.kernel(proc),
        container=container,
        driver=driver,
        torch=torch(),
        paths=paths,
        disks=disks or (),
        storage=None if models is None else system.read_storage(models, proc, sys),
        untold=tuple(remarks.untold),
    )


def _gpus(
    nvml: Callable[[], Nvml], visible: str | None, host_memory: tuple[int, int], remarks: _Remarks, folders: tuple[Path, Path]
) -> tuple[tuple[Gpu, ...], tuple[GpuPath, ...], Driver | None]:
    try:
        asked = nvml()
        driver = Driver(asked.driver(), _cuda(asked, remarks))
        gpus = read_gpus(asked, visible, host_memory=host_memory)
        remarks.broken += silent(asked)
        if not gpus:
            remarks.notes.append(_none_listed(asked, visible))
        return gpus, read_paths(asked, gpus), driver
    except NoDriver as reason:
        fault = _missing_driver(str(reason), *folders)
        (remarks.broken if fault else remarks.notes).append(f"no GPU: {fault or reason}")
    except NvmlUnavailable as reason:
        remarks.broken.append(f"no GPU: {reason}")
    return (), (), None


def _cuda(nvml: Nvml, remarks: _Remarks) -> tuple[int, int] | None:
    try:
        return nvml.cuda()
    except NvmlUnavailable as reason:
        remarks.untold.append(("driver.cuda", str(reason)))
        return None


def _none_listed(nvml: Nvml, visible: str | None) -> str:
    """Why a working driver gives no GPU."""
    if nvml.count() == 0:
        return "no GPU: the driver lists none"
    if visible is not None:
        return "no GPU: CUDA_VISIBLE_DEVICES names none"
    return "no GPU: MIG mode is on without a slice; make one (nvidia-smi mig -cgi ... -C) or turn it off (nvidia-smi -mig 0)"


def _missing_driver(reason: str, proc: Path, sys: Path) -> str | None:
    """What is wrong where NVML's library is absent and a card is there all the same; None: nothing shows a card."""
    loaded = system.kernel_module(proc)
    if loaded is not None:
        return (
            f"the kernel module {loaded} is loaded, but {reason.rpartition(': ')[2]}: "
            "start the container with --gpus all and NVIDIA_DRIVER_CAPABILITIES=compute,utility, or install the driver's libraries"
        )
    if system.is_tegra(proc, sys):
        return f"this is a Jetson, and {reason.rpartition(': ')[2]}: install JetPack 6 or later, or pass its libraries into the container"
    cards = system.cards_on_bus(sys)
    if not cards:
        return None
    where = ", ".join(f"{card.bus_id} (bound to {card.module or 'no module'})" for card in cards)
    return f"an NVIDIA card is on the bus at {where}, and it has no NVIDIA driver: install one"


def _placed(gpu: Gpu, proc: Path | None, sys: Path) -> Gpu:
    """With its memory node and, where `proc` is given, the names of the programs on it, which the driver does not tell."""
    node = None if gpu.bus_id is None else system.numa_node(sys, gpu.bus_id)
    untold = gpu.untold
    if node is None and gpu.bus_id is not None:
        untold = (*untold, ("numa_node", f"{sys / 'bus/pci/devices' / gpu.bus_id / 'numa_node'} names none"))
    processes = gpu.processes
    if processes and proc is not None:
        processes = tuple(dataclasses.replace(one, name=system.process_name(proc, one.pid)) for one in processes)
    return dataclasses.replace(gpu, numa_node=node, untold=untold, processes=processes)
