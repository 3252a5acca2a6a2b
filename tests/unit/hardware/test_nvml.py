"""GPUs are numbered as CUDA numbers them, and the C binding passes what the driver's reference asks for."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import pytest

from fake_nvml import Card, FakeNvml
from redline.hardware.nvml import DriverNvml, NvmlUnavailable, read_gpus

CARDS = [Card("GPU-aa1"), Card("GPU-ab2"), Card("GPU-cc3")]


@pytest.mark.parametrize(
    ("visible", "uuids"),
    [
        (None, ["GPU-aa1", "GPU-ab2", "GPU-cc3"]),
        ("2,0", ["GPU-cc3", "GPU-aa1"]),
        ("GPU-c", ["GPU-cc3"]),
        ("", []),
        ("-1", []),
        ("1,7,0", ["GPU-ab2"]),  # the list ends where an entry names nothing
        ("GPU-a", []),  # ambiguous
        ("1,1", ["GPU-ab2"]),
    ],
)
def test_visible_devices_are_numbered_in_the_order_of_the_variable(visible: str | None, uuids: list[str]) -> None:
    gpus = read_gpus(FakeNvml(CARDS), visible)
    assert [gpu.uuid for gpu in gpus] == uuids
    assert [gpu.device for gpu in gpus] == [f"cuda:{i}" for i in range(len(uuids))]


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


def test_a_figure_that_the_card_does_not_have_is_none() -> None:
    library = FakeLibrary(
        nvmlDeviceGetEnforcedPowerLimit=3, nvmlDeviceGetPowerManagementDefaultLimit=3, nvmlDeviceGetMaxClockInfo=3
    )
    (gpu,) = read_gpus(DriverNvml(library))
    assert gpu.power_limit_w is gpu.power_default_w is gpu.max_sm_mhz is None


def test_a_driver_that_refuses_says_why() -> None:
    with pytest.raises(NvmlUnavailable, match="version mismatch"):
        DriverNvml(FakeLibrary(nvmlInit_v2=18))


def test_a_library_without_a_needed_function_is_too_old() -> None:
    class Old:
        def nvmlInit_v2(self) -> int:
            return 0

    with pytest.raises(NvmlUnavailable, match="too old"):
        DriverNvml(Old()).count()
