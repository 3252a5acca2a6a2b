"""The C calls of the NVIDIA driver's management library (NVML), bound with ctypes: `DriverNvml`.

Only what `nvml.Nvml` asks for is bound, so that finding the GPU of a machine needs no further package. Names, structures and
units are those of NVIDIA's nvml.h (API version 13). Knows nothing of records. Open `DriverNvml`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from redline.hardware.machine import MigSlice
from redline.hardware.nvml import REMEDIES, Link, NvmlUnavailable

_TEXT_BYTES = 96  # NVML's largest fixed buffer among the strings read here
_SM_CLOCK, _MEMORY_CLOCK = 1, 2  # nvmlClockType_t
_UNCORRECTED, _SINCE_LOADED = 1, 0  # nvmlMemoryErrorType_t, nvmlEccCounterType_t
_INVALID, _NOT_SUPPORTED, _NOT_FOUND, _INSUFFICIENT_SIZE = 2, 3, 6, 7  # nvmlReturn_t
_MAX_LINKS = 36  # NVML_NVLINK_MAX_LINKS
_SWITCH = 2  # NVML_NVLINK_DEVICE_TYPE_SWITCH
_READ, _WRITE, _OK = 0, 1, 0  # nvmlGpuP2PCapsIndex_t, nvmlGpuP2PStatus_t
_NO_VALUE = (1 << 64) - 1  # NVML_VALUE_NOT_AVAILABLE in an unsigned field
_MOST_PROCESSES = 256


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class _Utilization(ctypes.Structure):
    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


class _Pci(ctypes.Structure):
    _fields_ = [
        ("busIdLegacy", ctypes.c_char * 16),
        ("domain", ctypes.c_uint),
        ("bus", ctypes.c_uint),
        ("device", ctypes.c_uint),
        ("pciDeviceId", ctypes.c_uint),
        ("pciSubSystemId", ctypes.c_uint),
        ("busId", ctypes.c_char * 32),
    ]


class _Process(ctypes.Structure):
    _fields_ = [
        ("pid", ctypes.c_uint),
        ("usedGpuMemory", ctypes.c_ulonglong),
        ("gpuInstanceId", ctypes.c_uint),
        ("computeInstanceId", ctypes.c_uint),
    ]


class _Attributes(ctypes.Structure):
    _fields_ = [
        ("multiprocessorCount", ctypes.c_uint),
        ("sharedCopyEngineCount", ctypes.c_uint),
        ("sharedDecoderCount", ctypes.c_uint),
        ("sharedEncoderCount", ctypes.c_uint),
        ("sharedJpegCount", ctypes.c_uint),
        ("sharedOfaCount", ctypes.c_uint),
        ("gpuInstanceSliceCount", ctypes.c_uint),
        ("computeInstanceSliceCount", ctypes.c_uint),
        ("memorySizeMB", ctypes.c_ulonglong),
    ]


class DriverNvml:
    """`Nvml` over the C library. Raises NvmlUnavailable where the driver refuses."""

    def __init__(self, library: Any):
        self._library = library
        self._handles: dict[int, ctypes.c_void_p] = {}
        self._call("nvmlInit_v2")

    def driver(self) -> str:
        return self._text("nvmlSystemGetDriverVersion")

    def cuda(self) -> tuple[int, int]:
        number = ctypes.c_int()
        self._call("nvmlSystemGetCudaDriverVersion_v2", ctypes.byref(number))
        return number.value // 1000, number.value % 1000 // 10

    def count(self) -> int:
        return self._number("nvmlDeviceGetCount_v2")

    def uuid(self, index: int) -> str:
        return self._text("nvmlDeviceGetUUID", self._handle(index))

    def name(self, index: int) -> str:
        return self._text("nvmlDeviceGetName", self._handle(index))

    def capability(self, index: int) -> tuple[int, int]:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvmlDeviceGetCudaComputeCapability", self._handle(index), ctypes.byref(major), ctypes.byref(minor))
        return major.value, minor.value

    def memory(self, index: int) -> tuple[int, int]:
        return self._memory(self._handle(index))

    def power_limits_w(self, index: int) -> tuple[float | None, float | None]:
        limit = self._optional("nvmlDeviceGetEnforcedPowerLimit", self._handle(index))
        default = self._optional("nvmlDeviceGetPowerManagementDefaultLimit", self._handle(index))
        return _watts(limit), _watts(default)

    def power_range_w(self, index: int) -> tuple[float, float]:
        low, high = self._two("nvmlDeviceGetPowerManagementLimitConstraints", index)
        return low * 1e-3, high * 1e-3

    def power_w(self, index: int) -> float:
        return self._number("nvmlDeviceGetPowerUsage", self._handle(index)) * 1e-3

    def max_clocks_mhz(self, index: int) -> tuple[int | None, int | None]:
        handle = self._handle(index)
        sm_clock = self._optional("nvmlDeviceGetMaxClockInfo", handle, _SM_CLOCK)
        return sm_clock, self._optional("nvmlDeviceGetMaxClockInfo", handle, _MEMORY_CLOCK)

    def clocks_mhz(self, index: int) -> tuple[int | None, int | None]:
        handle = self._handle(index)
        sm_clock = self._optional("nvmlDeviceGetClockInfo", handle, _SM_CLOCK)
        return sm_clock, self._optional("nvmlDeviceGetClockInfo", handle, _MEMORY_CLOCK)

    def clock_reasons(self, index: int) -> int | None:
        bits = ctypes.c_ulonglong()
        for function in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"):
            try:
                self._call(function, self._handle(index), ctypes.byref(bits))
            except NvmlUnavailable:
                continue
            return bits.value
        return None

    def energy_j(self, index: int) -> float | None:
        millijoules = ctypes.c_ulonglong()
        try:
            self._call("nvmlDeviceGetTotalEnergyConsumption", self._handle(index), ctypes.byref(millijoules))
        except NvmlUnavailable:
            return None
        return millijoules.value * 1e-3

    def temperature_c(self, index: int) -> int:
        return self._number("nvmlDeviceGetTemperature", self._handle(index), 0)  # 0: the sensor of the GPU's die

    def utilization(self, index: int) -> tuple[float, float]:
        shares = _Utilization()
        self._call("nvmlDeviceGetUtilizationRates", self._handle(index), ctypes.byref(shares))
        return shares.gpu / 100, shares.memory / 100

    def processes(self, index: int) -> tuple[tuple[int, int | None], ...]:
        """Programs with a CUDA context and those that draw, each once."""
        found: dict[int, int | None] = {}
        for function in ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetGraphicsRunningProcesses_v3"):
            rows, number = (_Process * _MOST_PROCESSES)(), ctypes.c_uint(_MOST_PROCESSES)
            try:
                self._call(function, self._handle(index), ctypes.byref(number), rows)
            except NvmlUnavailable as refusal:
                if function.startswith("nvmlDeviceGetCompute") and refusal.code != _INSUFFICIENT_SIZE:
                    raise
                continue
            for row in rows[: number.value]:
                found.setdefault(row.pid, None if row.usedGpuMemory == _NO_VALUE else row.usedGpuMemory)
        return tuple(sorted(found.items()))

    def ecc(self, index: int) -> tuple[bool, bool]:
        now, pending = self._two("nvmlDeviceGetEccMode", index)
        return bool(now), bool(pending)

    def ecc_errors(self, index: int) -> int:
        number = ctypes.c_ulonglong()
        self._call("nvmlDeviceGetTotalEccErrors", self._handle(index), _UNCORRECTED, _SINCE_LOADED, ctypes.byref(number))
        return number.value

    def cores(self, index: int) -> int:
        return self._number("nvmlDeviceGetNumGpuCores", self._handle(index))

    def bus_bits(self, index: int) -> int:
        return self._number("nvmlDeviceGetMemoryBusWidth", self._handle(index))

    def compute_mode(self, index: int) -> int:
        return self._number("nvmlDeviceGetComputeMode", self._handle(index))

    def bus_id(self, index: int) -> str:
        pci = _Pci()
        self._call("nvmlDeviceGetPciInfo_v3", self._handle(index), ctypes.byref(pci))
        return _bus_id(pci)

    def pcie(self, index: int) -> tuple[int | None, int | None, int, int]:
        handle = self._handle(index)
        return (
            self._optional("nvmlDeviceGetCurrPcieLinkGeneration", handle),
            self._optional("nvmlDeviceGetCurrPcieLinkWidth", handle),
            self._number("nvmlDeviceGetMaxPcieLinkGeneration", handle),
            self._number("nvmlDeviceGetMaxPcieLinkWidth", handle),
        )

    def links(self, index: int) -> tuple[Link, ...]:
        found = []
        for number in range(_MAX_LINKS):
            handle, link = self._handle(index), ctypes.c_uint(number)
            try:
                active = self._number("nvmlDeviceGetNvLinkState", handle, link)
            except NvmlUnavailable as refusal:
                if number == 0 and refusal.code not in (_INVALID, _NOT_SUPPORTED):
                    raise
                break  # no NVLink at all, or no further one
            if active:
                found.append(Link(self._optional("nvmlDeviceGetNvLinkVersion", handle, link), self._peer(handle, link)))
        return tuple(found)

    def _peer(self, handle: ctypes.c_void_p, link: ctypes.c_uint) -> str | None:
        """ "switch", or the bus id of what the link ends at; None where the driver does not tell."""
        if self._optional("nvmlDeviceGetNvLinkRemoteDeviceType", handle, link) == _SWITCH:
            return "switch"
        pci = _Pci()
        try:
            self._call("nvmlDeviceGetNvLinkRemotePciInfo_v2", handle, link, ctypes.byref(pci))
        except NvmlUnavailable:
            return None
        return _bus_id(pci)

    def path(self, first: int, second: int) -> int:
        return self._number("nvmlDeviceGetTopologyCommonAncestor", self._handle(first), self._handle(second))

    def peer_access(self, first: int, second: int) -> bool:
        handles = self._handle(first), self._handle(second)
        return all(self._number("nvmlDeviceGetP2PStatus", *handles, kind) == _OK for kind in (_READ, _WRITE))

    def mig(self, index: int) -> tuple[bool, bool]:
        now, pending = self._two("nvmlDeviceGetMigMode", index)
        return bool(now), bool(pending)

    def slices(self, index: int) -> tuple[MigSlice, ...]:
        handle, found = self._handle(index), []
        for number in range(self._number("nvmlDeviceGetMaxMigDeviceCount", handle)):
            part = ctypes.c_void_p()
            try:
                self._call("nvmlDeviceGetMigDeviceHandleByIndex", handle, ctypes.c_uint(number), ctypes.byref(part))
            except NvmlUnavailable as refusal:
                if refusal.code == _NOT_FOUND:  # places may be empty
                    continue
                raise
            total, free = self._memory(part)
            name, uuid = self._text("nvmlDeviceGetName", part), self._text("nvmlDeviceGetUUID", part)
            found.append(MigSlice(uuid, name, total, free, self._slice_sms(part)))
        return tuple(found)

    def _slice_sms(self, part: ctypes.c_void_p) -> int | None:
        attributes = _Attributes()
        try:
            self._call("nvmlDeviceGetAttributes_v2", part, ctypes.byref(attributes))
        except NvmlUnavailable:
            return None
        return int(attributes.multiprocessorCount)

    def _handle(self, index: int) -> ctypes.c_void_p:
        if index not in self._handles:
            handle = ctypes.c_void_p()
            self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
            self._handles[index] = handle
        return self._handles[index]

    def _memory(self, handle: ctypes.c_void_p) -> tuple[int, int]:
        memory = _Memory()
        self._call("nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
        return memory.total, memory.free

    def _text(self, function: str, *arguments: Any) -> str:
        buffer = ctypes.create_string_buffer(_TEXT_BYTES)
        self._call(function, *arguments, buffer, ctypes.c_uint(_TEXT_BYTES))
        return buffer.value.decode(errors="replace")

    def _number(self, function: str, *arguments: Any) -> int:
        number = ctypes.c_uint()
        self._call(function, *arguments, ctypes.byref(number))
        return number.value

    def _two(self, function: str, index: int) -> tuple[int, int]:
        first, second = ctypes.c_uint(), ctypes.c_uint()
        self._call(function, self._handle(index), ctypes.byref(first), ctypes.byref(second))
        return first.value, second.value

    def _optional(self, function: str, *arguments: Any) -> int | None:
        """One unsigned number, or None where this card or this driver does not have it."""
        try:
            return self._number(function, *arguments)
        except NvmlUnavailable:
            return None

    def _call(self, function: str, *arguments: Any) -> None:
        try:
            call: Callable[..., int] = getattr(self._library, function)
        except AttributeError:
            raise NvmlUnavailable(f"the NVIDIA driver is too old: its library has no {function}") from None
        code = call(*arguments)
        if code != 0:
            remedy = f": {REMEDIES[code]}" if code in REMEDIES else ""
            raise NvmlUnavailable(f"the NVIDIA driver refused {function}: {self._reason(code)}{remedy}", code)

    def _reason(self, code: int) -> str:
        describe = getattr(self._library, "nvmlErrorString", None)
        if describe is None:
            return f"error {code}"
        describe.restype = ctypes.c_char_p
        text: bytes | None = describe(code)
        return text.decode(errors="replace") if text else f"error {code}"


def _bus_id(pci: _Pci) -> str:
    """As /sys/bus/pci/devices spells it: four digits of domain, where NVML writes eight."""
    text = bytes(pci.busId).decode(errors="replace").lower()
    domain, _, rest = text.partition(":")
    return f"{domain[-4:]}:{rest}" if rest else text


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts * 1e-3
