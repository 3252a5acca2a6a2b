"""Where weights come from: GGUF files, Hugging Face folders, random weights; and where models lie and are fetched.

Every kind of checkpoint is one iterator of named, memory-mapped `Packed` records, in Hugging Face's names. This room reads
files that may lie and checks every number; it runs no code from them, knows nothing of devices and never imports torch.
Open `opener.py` first, then `base.py`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redline.checkpoint.base import Checkpoint as Checkpoint
    from redline.checkpoint.base import GenerationDefaults as GenerationDefaults
    from redline.checkpoint.opener import open as open
    from redline.checkpoint.packed import Packed as Packed

_EXPORTS = {
    "Checkpoint": "redline.checkpoint.base",
    "GenerationDefaults": "redline.checkpoint.base",
    "Packed": "redline.checkpoint.packed",
    "open": "redline.checkpoint.opener",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)
