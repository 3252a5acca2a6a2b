"""The engine room: turns requests into tokens, step by step.

Half of it is torch-free and pure: `request` (the records), `pages`, `prefix`, `ledger`, `admission` and `scheduler` decide
what a step computes and know nothing of devices, models, text or HTTP. Names are exported lazily, so importing this room never
imports torch. Open `scheduler.py` first.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_EXPORTS = {
    "Ended": "request",
    "Entry": "scheduler",
    "Limits": "admission",
    "PagePool": "pages",
    "Plan": "scheduler",
    "PrefixCache": "prefix",
    "Sampled": "request",
    "Scheduler": "scheduler",
    "Sequence": "request",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
