"""The early context is taken once, on the right device, given back once, and never in the way."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from redline.hardware.context import EarlyContext


class FakeDriver:
    """Counts what is held; `fails` names the call that returns an error."""

    def __init__(self, fails: str = "") -> None:
        self.calls: list[str] = []
        self.held: dict[int, int] = {}
        self._fails = fails

    def __call__(self, name: str) -> FakeDriver:
        assert name == "libcuda.so.1"
        return self

    def cuInit(self, flags: int) -> int:  # noqa: N802 (the driver's own names)
        return self._did("cuInit")

    def cuDeviceGet(self, device: Any, index: int) -> int:  # noqa: N802
        ctypes.cast(device, ctypes.POINTER(ctypes.c_int))[0] = index + 40
        return self._did("cuDeviceGet")

    def cuDevicePrimaryCtxRetain(self, context: Any, device: ctypes.c_int) -> int:  # noqa: N802
        error = self._did("cuDevicePrimaryCtxRetain")
        if not error:
            self.held[device.value] = self.held.get(device.value, 0) + 1
        return error

    def cuDevicePrimaryCtxRelease_v2(self, device: ctypes.c_int) -> int:  # noqa: N802
        self.held[device.value] -= 1
        return 0

    def _did(self, call: str) -> int:
        self.calls.append(call)
        return 999 if call == self._fails else 0


@pytest.mark.parametrize(("device", "opened"), [("auto", 40), ("cuda", 40), ("cuda:3", 43)])
def test_the_context_is_held_until_it_is_closed(device: str, opened: int) -> None:
    driver = FakeDriver()
    early = EarlyContext(device, library=driver)
    assert early._thread is not None
    early._thread.join()
    assert driver.held == {opened: 1}
    early.close()
    early.close()
    assert driver.held == {opened: 0}


def test_a_cpu_opens_nothing() -> None:
    driver = FakeDriver()
    EarlyContext("cpu", library=driver).close()
    assert not driver.calls


@pytest.mark.parametrize("call", ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain"])
def test_an_error_of_the_driver_is_left_to_torch(call: str) -> None:
    driver = FakeDriver(call)
    EarlyContext("cuda:0", library=driver).close()
    assert driver.calls[-1] == call and not driver.held


def test_a_machine_without_a_driver() -> None:
    def missing(name: str) -> Any:
        raise OSError(name)

    EarlyContext("auto", library=missing).close()
