"""What low-precision bytes mean: from the packed blocks of a file to tensors.

Takes records and tensors, never a model. Open `unpacking.py` first, then `blocks.py`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redline.quant.unpacking import decode as decode
    from redline.quant.unpacking import plain_dtype as plain_dtype
    from redline.quant.unpacking import unpack as unpack
    from redline.quant.unpacking import unpack_into as unpack_into


def __getattr__(name: str) -> Any:
    if name not in ("decode", "plain_dtype", "unpack", "unpack_into"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("redline.quant.unpacking"), name)
