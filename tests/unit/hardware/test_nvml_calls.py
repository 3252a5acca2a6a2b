"""The C binding passes what NVML's header asks for, and a refusal says what to do."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import pytest

from redline.hardware.machine import Pcie
from redline.hardware.nvml import NvmlUnavailable, read_gpus
from redline.hardware.nvml_calls import DriverNvml


class FakeLibrary:
    """libnvidia-ml as a C library with one card: functions fill the pointers they are given and return a code."""

    def __init__(self, **codes: int):
        self._codes = codes

    def __getattr__(self, function: str) -> Callable[..., Any]:
        if function == "nvmlErrorString":
            return _ErrorString()
        if not hasattr(_Answers, function):
            raise AttributeError(function)

        def call(*arguments: Any) -> int:
            if function not in self._codes:
                getattr(_Answers, function)(*arguments)
            return self._codes.get(function, 0)

        return call


class _ErrorString:
    restype: Any = None

    def __call__(self, code: int) -> bytes:
        return b"Driver/library version mismatch" if code == 18 else b"Not Supported"


class _Answers:
    """What the card says. `byref` objects keep their target in `_obj`."""

    @staticmethod
    def nvmlInit_v2() -> None: ...

    @staticmethod
    def nvmlSystemGetDriverVersion(buffer: Any, size: ctypes.c_uint) -> None:
        assert len(buffer) == size.value
        buffer.value = b"580.1"

    @staticmethod
    def nvmlDeviceGetCount_v2(number: Any) -> None:
        number._obj.value = 1

    @staticmethod
    def nvmlDeviceGetHandleByIndex_v2(index: ctypes.c_uint, handle: Any) -> None:
        assert index.value == 0
        handle._obj.value = 0xBEEF

    @staticmethod
    def nvmlDeviceGetUUID(handle: ctypes.c_void_p, buffer: Any, size: ctypes.c_uint) -> None:
        assert handle.value == 0xBEEF
        buffer.value = b"GPU-1"

    @staticmethod
    def nvmlDeviceGetName(handle: ctypes.c_void_p, buffer: Any, size: ctypes.c_uint) -> None:
        buffer.value = b"Tesla T4"

    @staticmethod
    def nvmlDeviceGetCudaComputeCapability(handle: ctypes.c_void_p, major: Any, minor: Any) -> None:
        major._obj.value, minor._obj.value = 7, 5

    @staticmethod
    def nvmlDeviceGetMemoryInfo(handle: ctypes.c_void_p, memory: Any) -> None:
        memory._obj.total, memory._obj.free, memory._obj.used = 16 << 30, 15 << 30, 1 << 30

    @staticmethod
    def nvmlDeviceGetEnforcedPowerLimit(handle: ctypes.c_void_p, number: Any) -> None:
        number._obj.value = 70_000

    @staticmethod
    def nvmlDeviceGetPowerManagementDefaultLimit(handle: ctypes.c_void_p, number: Any) -> None:
        number._obj.value = 70_000

    @staticmethod
    def nvmlDeviceGetMaxClockInfo(handle: ctypes.c_void_p, kind: int, number: Any) -> None:
        number._obj.value = {1: 1590, 2: 5001}[kind]

    @staticmethod
    def nvmlSystemGetCudaDriverVersion_v2(number: Any) -> None:
        number._obj.value = 12090

    @staticmethod
    def nvmlDeviceGetPowerManagementLimitConstraints(handle: ctypes.c_void_p, low: Any, high: Any) -> None:
        low._obj.value, high._obj.value = 60_000, 70_000

    @staticmethod
    def nvmlDeviceGetPowerUsage(handle: ctypes.c_void_p, number: Any) -> None:
        number._obj.value = 9_500

    @staticmethod
    def nvmlDeviceGetClockInfo(handle: ctypes.c_void_p, kind: int, number: Any) -> None:
        number._obj.value = {1: 300, 2: 405}[kind]

    @staticmethod
    def nvmlDeviceGetCurrentClocksThrottleReasons(handle: ctypes.c_void_p, bits: Any) -> None:
        bits._obj.value = 0x20  # the older name of the call: this library does not have the newer

    @staticmethod
    def nvmlDeviceGetTemperature(handle: ctypes.c_void_p, sensor: int, number: Any) -> None:
        assert sensor == 0
        number._obj.value = 41

    @staticmethod
    def nvmlDeviceGetUtilizationRates(handle: ctypes.c_void_p, shares: Any) -> None:
        shares._obj.gpu, shares._obj.memory = 98, 40

    @staticmethod
    def nvmlDeviceGetComputeRunningProcesses_v3(handle: ctypes.c_void_p, number: Any, rows: Any) -> None:
        assert number._obj.value == len(rows)
        number._obj.value = 2
        rows[0].pid, rows[0].usedGpuMemory = 40, 3 << 30
        rows[1].pid, rows[1].usedGpuMemory = 41, (1 << 64) - 1

    @staticmethod
    def nvmlDeviceGetGraphicsRunningProcesses_v3(handle: ctypes.c_void_p, number: Any, rows: Any) -> None:
        number._obj.value = 1
        rows[0].pid, rows[0].usedGpuMemory = 40, 3 << 30

    @staticmethod
    def nvmlDeviceGetEccMode(handle: ctypes.c_void_p, now: Any, pending: Any) -> None:
        now._obj.value, pending._obj.value = 0, 1

    @staticmethod
    def nvmlDeviceGetTotalEccErrors(handle: ctypes.c_void_p, kind: int, counter: int, number: Any) -> None:
        assert (kind, counter) == (1, 0)
        number._obj.value = 7

    @staticmethod
    def nvmlDeviceGetNumGpuCores(handle: ctypes.c_void_p, number: Any) -> None:
        number._obj.value = 2560

    @staticmethod
    def nvmlDeviceGetMemoryBusWidth(handle: ctypes.c_void_p, number: Any) -> None:
        number._obj.value = 256

    @staticmethod
    def nvmlDeviceGetComputeMode(handle: ctypes.c_void_p, number: Any) -> None:
        number._obj.value = 3

    @staticmethod
    def nvmlDeviceGetPciInfo_v3(handle: ctypes.c_void_p, pci: Any) -> None:
        assert ctypes.sizeof(pci._obj) == 68
        pci._obj.busId = b"00000000:3B:00.0"

    @staticmethod
    def nvmlDeviceGetCurrPcieLinkGeneration(handle: ctypes.c_void_p, number: Any) -> None:
        number._obj.value = 1

    @staticmethod
    def nvmlDeviceGetCurrPcieLinkWidth(handle: ctypes.c_void_p, number: Any) -> None:
        number._obj.value = 8

    @staticmethod
    def nvmlDeviceGetMaxPcieLinkGeneration(handle: ctypes.c_void_p, number: Any) -> None:
        number._obj.value = 3

    @staticmethod
    def nvmlDeviceGetMaxPcieLinkWidth(handle: ctypes.c_void_p, number: Any) -> None:
        number._obj.value = 16

    @staticmethod
    def nvmlDeviceGetNvLinkState(handle: ctypes.c_void_p, link: ctypes.c_uint, number: Any) -> None:
        number._obj.value = int(link.value < 4)

    @staticmethod
    def nvmlDeviceGetNvLinkVersion(handle: ctypes.c_void_p, link: ctypes.c_uint, number: Any) -> None:
        number._obj.value = 6

    @staticmethod
    def nvmlDeviceGetNvLinkRemoteDeviceType(handle: ctypes.c_void_p, link: ctypes.c_uint, number: Any) -> None:
        number._obj.value = 2 if link.value < 3 else 0

    @staticmethod
    def nvmlDeviceGetNvLinkRemotePciInfo_v2(handle: ctypes.c_void_p, link: ctypes.c_uint, pci: Any) -> None:
        pci._obj.busId = b"00000000:86:00.0"

    @staticmethod
    def nvmlDeviceGetTotalEnergyConsumption(handle: ctypes.c_void_p, number: Any) -> None:
        assert handle.value == 0xBEEF
        number._obj.value = 5_000_000_000_250  # more than 32 bits hold


def test_energy_is_told_in_joules_or_not_at_all() -> None:
    assert DriverNvml(FakeLibrary()).energy_j(0) == 5_000_000_000.25
    assert DriverNvml(FakeLibrary(nvmlDeviceGetTotalEnergyConsumption=3)).energy_j(0) is None


def test_the_binding_reads_a_card() -> None:
    (gpu,) = read_gpus(DriverNvml(FakeLibrary()))
    assert (gpu.name, gpu.uuid, gpu.driver, gpu.capability) == ("Tesla T4", "GPU-1", "580.1", (7, 5))
    assert (gpu.memory_bytes, gpu.free_bytes) == (16 << 30, 15 << 30)
    assert (gpu.power_limit_w, gpu.power_default_w, gpu.max_sm_mhz, gpu.max_memory_mhz) == (70.0, 70.0, 1590, 5001)


def test_the_binding_reads_everything_else() -> None:
    nvml = DriverNvml(FakeLibrary())
    (gpu,) = read_gpus(nvml)
    assert nvml.cuda() == (12, 9)
    assert (gpu.power_min_w, gpu.power_max_w, gpu.power_w) == (60.0, 70.0, 9.5)
    assert (gpu.sm_mhz, gpu.memory_mhz, gpu.clock_reasons, gpu.temperature_c) == (300, 405, 0x20, 41)
    assert (gpu.utilization, gpu.memory_utilization) == (0.98, 0.4)
    assert gpu.processes is not None and [(row.pid, row.memory_bytes) for row in gpu.processes] == [(40, 3 << 30), (41, None)]
    assert (gpu.ecc, gpu.ecc_pending, gpu.ecc_errors) == (False, True, 7)
    assert (gpu.sms, gpu.memory_bus_bits, gpu.pin_bytes_per_s) == (40, 256, 2 * 5001e6 * 32)
    assert (gpu.compute_mode, gpu.bus_id, gpu.pcie) == ("exclusive", "0000:3b:00.0", Pcie(1, 8, 3, 16))
    assert gpu.nvlinks is not None and gpu.nvlinks.peers == (("0000:86:00.0", 1), ("switch", 3))
    assert gpu.mig is None and gpu.slices == ()


class _SlicedLibrary:
    """One card in MIG mode with one slice, at the second of two places."""

    def __getattr__(self, function: str) -> Callable[..., int]:
        if function not in vars(_SliceAnswers):
            raise AttributeError(function)
        return lambda *arguments: getattr(_SliceAnswers, function)(*arguments) or 0


class _SliceAnswers:
    @staticmethod
    def nvmlInit_v2() -> None: ...

    @staticmethod
    def nvmlDeviceGetHandleByIndex_v2(index: ctypes.c_uint, handle: Any) -> None:
        handle._obj.value = 1

    @staticmethod
    def nvmlDeviceGetMigMode(handle: ctypes.c_void_p, now: Any, pending: Any) -> None:
        now._obj.value, pending._obj.value = 1, 0

    @staticmethod
    def nvmlDeviceGetMaxMigDeviceCount(handle: ctypes.c_void_p, number: Any) -> None:
        number._obj.value = 2

    @staticmethod
    def nvmlDeviceGetMigDeviceHandleByIndex(handle: ctypes.c_void_p, index: ctypes.c_uint, part: Any) -> int:
        if index.value == 0:
            return 6  # NVML_ERROR_NOT_FOUND
        part._obj.value = 2
        return 0

    @staticmethod
    def nvmlDeviceGetMemoryInfo(handle: ctypes.c_void_p, memory: Any) -> None:
        assert handle.value == 2
        memory._obj.total, memory._obj.free = 5 << 30, 4 << 30

    @staticmethod
    def nvmlDeviceGetName(handle: ctypes.c_void_p, buffer: Any, size: ctypes.c_uint) -> None:
        buffer.value = b"MIG 1g.5gb"

    @staticmethod
    def nvmlDeviceGetUUID(handle: ctypes.c_void_p, buffer: Any, size: ctypes.c_uint) -> None:
        buffer.value = b"MIG-1"

    @staticmethod
    def nvmlDeviceGetAttributes_v2(handle: ctypes.c_void_p, attributes: Any) -> None:
        assert ctypes.sizeof(attributes._obj) == 40
        attributes._obj.multiprocessorCount = 14


def test_mig_slices_are_read_past_empty_places() -> None:
    nvml = DriverNvml(_SlicedLibrary())
    assert nvml.mig(0) == (True, False)
    slices = nvml.slices(0)
    assert [(part.uuid, part.name, part.memory_bytes, part.sms) for part in slices] == [("MIG-1", "MIG 1g.5gb", 5 << 30, 14)]


def test_a_figure_that_the_card_does_not_have_is_none() -> None:
    library = FakeLibrary(
        nvmlDeviceGetEnforcedPowerLimit=3, nvmlDeviceGetPowerManagementDefaultLimit=3, nvmlDeviceGetMaxClockInfo=3
    )
    (gpu,) = read_gpus(DriverNvml(library))
    assert gpu.power_limit_w is gpu.power_default_w is gpu.max_sm_mhz is None


@pytest.mark.parametrize(
    ("code", "words"), [(18, "version mismatch.*reboot"), (9, "modprobe nvidia"), (4, "/dev/nvidia"), (15, "fell off the bus")]
)
def test_a_driver_that_refuses_says_why_and_what_to_do(code: int, words: str) -> None:
    with pytest.raises(NvmlUnavailable, match=words) as refusal:
        DriverNvml(FakeLibrary(nvmlInit_v2=code))
    assert refusal.value.code == code


def test_a_library_without_a_needed_function_is_too_old() -> None:
    class Old:
        def nvmlInit_v2(self) -> int:
            return 0

    with pytest.raises(NvmlUnavailable, match="too old"):
        DriverNvml(Old()).count()
