"""Joules that a device took, from its own counter. Torch-free. Open `energy_counter`.

GPUs since Volta count their energy in the driver (NVML's total energy consumption), refreshed some ten to fifty times a
second, so what is measured should take a second or more.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from redline.hardware.machine import Machine
from redline.hardware.nvml import Nvml, NvmlUnavailable, connect


def energy_counter(machine: Machine, device: str, nvml: Callable[[], Nvml] = connect) -> Callable[[], float] | None:
    """A function that tells the joules `device` has taken since some moment in the past; None where nothing counts them."""
    gpu = machine.gpu(device)
    if gpu is None:
        return None
    try:
        driver = nvml()
        index = next((i for i in range(driver.count()) if driver.uuid(i) == gpu.uuid), None)
        if index is None or driver.energy_j(index) is None:
            return None
    except NvmlUnavailable:
        return None
    return functools.partial(_joules, driver, index)


def _joules(driver: Nvml, index: int) -> float:
    joules = driver.energy_j(index)
    assert joules is not None, "a counter that was there is gone"
    return joules
