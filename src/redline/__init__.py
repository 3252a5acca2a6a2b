"""redline: an inference engine that plans, runs and proves how close it comes to the machine's limit.

The public door. `LLM` runs a model in this process, `SamplingParams` says how it answers, `EngineConfig` is all that can
be set, `grammar` makes what an answer must match, and `errors` is the tree of everything that can go wrong. Names are
loaded on first use, so importing redline costs nothing and never imports torch; nothing inside the package imports this
file. Open `llm.py` first.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redline import errors
    from redline.config import EngineConfig
    from redline.engine import grammar
    from redline.llm import LLM
    from redline.types import SamplingParams

__version__ = "0.1.0"
__all__ = ["LLM", "EngineConfig", "SamplingParams", "__version__", "errors", "grammar"]

_MODULES = {"errors": "redline.errors", "grammar": "redline.engine.grammar"}
_HOMES = {"LLM": "redline.llm", "EngineConfig": "redline.config", "SamplingParams": "redline.types"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'redline' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
