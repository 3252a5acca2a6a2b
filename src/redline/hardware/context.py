"""A GPU's context, made in a thread while torch is still being imported.

The driver takes half a second to a second to open a device, torch takes longer to import, and neither needs the other: a
process has one primary context per device, which torch finds when it comes. Nothing here fails: what is wrong with a driver or
a device is torch's to tell. Knows nothing of torch. Open `EarlyContext` first.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

_LIBRARY = "libcuda.so.1"


class EarlyContext:
    """Opens `device` ("cuda:1"; "auto" is the first) in a thread; nothing happens for "cpu" or without a driver.

    `close` gives the context back: by then torch holds it, or nobody wants it.
    """

    def __init__(self, device: str, *, library: Callable[[str], Any] = ctypes.CDLL) -> None:
        self._index = int(index) if (index := device.partition(":")[2]).isdigit() else 0
        self._library = library
        self._driver: Any = None
        self._thread: threading.Thread | None = None
        self._device = ctypes.c_int()
        if device != "cpu":
            self._thread = threading.Thread(target=self._open, name="redline-context", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Wait for the thread, and let go of what it holds. Once is enough, twice is fine."""
        if self._thread is not None:
            self._thread.join()
        if self._driver is not None:
            self._driver.cuDevicePrimaryCtxRelease_v2(self._device)
            self._driver = None

    def _open(self) -> None:
        try:
            driver = self._library(_LIBRARY)
        except OSError:
            return
        context = ctypes.c_void_p()
        if (
            driver.cuInit(0) == 0
            and driver.cuDeviceGet(ctypes.byref(self._device), self._index) == 0
            and driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), self._device) == 0
        ):
            self._driver = driver
