"""Triton's compiled kernels between starts, and what it does once in a process before the first one.

A kernel costs a second or two to compile and some milliseconds to read back, so where they are kept decides how long a start
takes. Knows no kernel; what is compiled without Triton is kept by `cuda.compiler`. Open `keep` first.
"""

from __future__ import annotations

import atexit
import contextlib
import shutil
import tempfile
import threading
from pathlib import Path

import torch

from redline import log


def keep(folder: Path) -> None:
    """Have Triton keep its kernels in `folder` from now on, unless the user named a place (TRITON_CACHE_DIR, TRITON_HOME).

    A folder that cannot be written is replaced by one that lasts as long as this process. Nothing to do without Triton.
    """
    try:
        from triton import knobs
    except ImportError:
        return
    usual = Path.home() / ".triton" / "cache"
    if Path(knobs.cache.dir) != usual:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError:
        log.fallback("kernels", "the cache folder cannot be written, so every start compiles them again")
        folder = Path(tempfile.mkdtemp(prefix="redline-kernels-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    knobs.cache.dir = str(folder)


@contextlib.contextmanager
def prepared(device: torch.device):
    """Meanwhile, in a thread, do what the first kernel and the first product would wait for; done when the block ends.

    That is Triton's fingerprint of itself (it hashes 400 MB), its driver, and cuBLAS: about a second of work that reads
    nothing of the model, so it belongs beside the loading of weights. A mistake in here shows when a kernel is really used.
    """
    if device.type != "cuda":
        yield
        return
    thread = threading.Thread(target=_prepare, args=(device,), name="redline-prepare", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _prepare(device: torch.device) -> None:
    try:
        with torch.no_grad(), torch.cuda.device(device):  # on the stream of the model, which then finds cuBLAS's memory there
            small = torch.zeros(16, 64, dtype=torch.float16, device=device)
            torch.nn.functional.linear(small, small)
            from triton.compiler import make_backend
            from triton.runtime import driver
            from triton.runtime.cache import triton_key

            triton_key()
            make_backend(driver.active.get_current_target()).hash()
    except Exception as error:  # whatever it was, the first kernel meets it where it can be told
        log.get("kernels").debug("kernels could not be prepared: %s", error)
