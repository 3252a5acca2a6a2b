"""GPUs as the NVIDIA driver's management library (NVML) describes them, without torch and without a CUDA context.

The driver always brings `libnvidia-ml.so.1`; the dozen calls needed are bound here, so that finding the GPU of a
machine needs no further package. Names and units of the C calls are those of NVIDIA's NVML reference.
Open `read_gpus` first; it takes any object with the methods of `Nvml`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Protocol

from redline.hardware.machine import Gpu

LIBRARIES = ("libnvidia-ml.so.1", "nvml.dll")
_TEXT_BYTES = 96  # NVML's largest fixed buffer among the strings read here
_SM_CLOCK, _MEMORY_CLOCK = 1, 2  # nvmlClockType_t


class NvmlUnavailable(Exception):
    """No GPU can be listed; the message says why, for people."""


class NoDriver(NvmlUnavailable):
    """The machine has no NVIDIA driver at all: no fault, just no GPU."""


class Nvml(Protocol):
    """What `read_gpus` asks of the driver. Methods that return None have no such figure on this card."""

    def driver(self) -> str: ...
    def count(self) -> int: ...
    def uuid(self, index: int) -> str: ...
    def name(self, index: int) -> str: ...
    def capability(self, index: int) -> tuple[int, int]: ...
    def memory(self, index: int) -> tuple[int, int]: ...  # (all, free) bytes
    def power_limits_w(self, index: int) -> tuple[float | None, float | None]: ...  # (in force, default)
    def max_clocks_mhz(self, index: int) -> tuple[int | None, int | None]: ...  # (SM, memory)
    def energy_j(self, index: int) -> float | None: ...  # since the driver was loaded


def read_gpus(nvml: Nvml, visible: str | None = None) -> tuple[Gpu, ...]:
    """The GPUs that CUDA would number 0, 1, ...; `visible` is the value of CUDA_VISIBLE_DEVICES, where set.

    Raises NvmlUnavailable when the driver cannot answer.
    """
    uuids = [nvml.uuid(i) for i in range(nvml.count())]
    return tuple(_read_gpu(nvml, physical, index) for index, physical in enumerate(_visible(uuids, visible)))


def _read_gpu(nvml: Nvml, physical: int, index: int) -> Gpu:
    total, free = nvml.memory(physical)
    limit, default = nvml.power_limits_w(physical)
    sm_clock, memory_clock = nvml.max_clocks_mhz(physical)
    return Gpu(
        index=index,
        uuid=nvml.uuid(physical),
        name=nvml.name(physical),
        capability=nvml.capability(physical),
        memory_bytes=total,
        free_bytes=free,
        driver=nvml.driver(),
        power_limit_w=limit,
        power_default_w=default,
        max_sm_mhz=sm_clock,
        max_memory_mhz=memory_clock,
    )


def _visible(uuids: list[str], visible: str | None) -> list[int]:
    """Physical indices in CUDA's order. As CUDA does, the list ends at the first entry that names no GPU."""
    if visible is None:
        return list(range(len(uuids)))
    chosen: list[int] = []
    for entry in (part.strip() for part in visible.split(",")):
        if entry.isdigit():
            found = [int(entry)] if int(entry) < len(uuids) else []
        else:
            found = [i for i, uuid in enumerate(uuids) if entry and uuid.startswith(entry)]
        if len(found) != 1 or found[0] in chosen:
            break
        chosen += found
    return chosen


def connect() -> Nvml:
    """The driver's own library, initialised. Raises NvmlUnavailable with the reason."""
    for name in LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        return DriverNvml(library)
    raise NoDriver(f"no NVIDIA driver here: {LIBRARIES[0]} was not found")


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class DriverNvml:
    """`Nvml` over the C library. Raises NvmlUnavailable where the driver refuses a call that every card answers."""

    def __init__(self, library: Any):
        self._library = library
        self._handles: dict[int, ctypes.c_void_p] = {}
        self._call("nvmlInit_v2")

    def driver(self) -> str:
        return self._text("nvmlSystemGetDriverVersion")

    def count(self) -> int:
        number = ctypes.c_uint()
        self._call("nvmlDeviceGetCount_v2", ctypes.byref(number))
        return number.value

    def uuid(self, index: int) -> str:
        return self._text("nvmlDeviceGetUUID", self._handle(index))

    def name(self, index: int) -> str:
        return self._text("nvmlDeviceGetName", self._handle(index))

    def capability(self, index: int) -> tuple[int, int]:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvmlDeviceGetCudaComputeCapability", self._handle(index), ctypes.byref(major), ctypes.byref(minor))
        return major.value, minor.value

    def memory(self, index: int) -> tuple[int, int]:
        memory = _Memory()
        self._call("nvmlDeviceGetMemoryInfo", self._handle(index), ctypes.byref(memory))
        return memory.total, memory.free

    def power_limits_w(self, index: int) -> tuple[float | None, float | None]:
        limit = self._optional("nvmlDeviceGetEnforcedPowerLimit", self._handle(index))
        default = self._optional("nvmlDeviceGetPowerManagementDefaultLimit", self._handle(index))
        return _watts(limit), _watts(default)

    def max_clocks_mhz(self, index: int) -> tuple[int | None, int | None]:
        handle = self._handle(index)
        sm_clock = self._optional("nvmlDeviceGetMaxClockInfo", handle, _SM_CLOCK)
        return sm_clock, self._optional("nvmlDeviceGetMaxClockInfo", handle, _MEMORY_CLOCK)

    def energy_j(self, index: int) -> float | None:
        millijoules = ctypes.c_ulonglong()
        try:
            self._call("nvmlDeviceGetTotalEnergyConsumption", self._handle(index), ctypes.byref(millijoules))
        except NvmlUnavailable:
            return None
        return millijoules.value * 1e-3

    def _handle(self, index: int) -> ctypes.c_void_p:
        if index not in self._handles:
            handle = ctypes.c_void_p()
            self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
            self._handles[index] = handle
        return self._handles[index]

    def _text(self, function: str, *arguments: Any) -> str:
        buffer = ctypes.create_string_buffer(_TEXT_BYTES)
        self._call(function, *arguments, buffer, ctypes.c_uint(_TEXT_BYTES))
        return buffer.value.decode(errors="replace")

    def _optional(self, function: str, *arguments: Any) -> int | None:
        """One unsigned number, or None where this card or this driver does not have it."""
        number = ctypes.c_uint()
        try:
            self._call(function, *arguments, ctypes.byref(number))
        except NvmlUnavailable:
            return None
        return number.value

    def _call(self, function: str, *arguments: Any) -> None:
        try:
            call: Callable[..., int] = getattr(self._library, function)
        except AttributeError:
            raise NvmlUnavailable(f"the NVIDIA driver is too old: its library has no {function}") from None
        code = call(*arguments)
        if code != 0:
            raise NvmlUnavailable(f"the NVIDIA driver refused {function}: {self._reason(code)}")

    def _reason(self, code: int) -> str:
        describe = getattr(self._library, "nvmlErrorString", None)
        if describe is None:
            return f"error {code}"
        describe.restype = ctypes.c_char_p
        text: bytes | None = describe(code)
        return text.decode(errors="replace") if text else f"error {code}"


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts * 1e-3
