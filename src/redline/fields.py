"""Values of a dictionary that came out of a file, read with checks.

A file may hold anything under any key. Every complaint is a CheckpointError, or an UnsupportedModel for a value that is
sound and not run, and names the key. Knows nothing of what the keys mean. Open `Fields` first.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from redline.errors import CheckpointError, UnsupportedModel

MAX_SIZE = 1 << 24  # of any width; far above every model, far below an overflow
MAX_NUMBER = 1e12  # what the formulas of rope scalings can bear


def shown(value: object) -> str:
    """`value` as an error message shows it: cut short where it is long."""
    return reprlib.repr(value)


class Fields:
    """A dictionary from a file, read with checks. Every complaint names the key and the file's kind."""

    def __init__(self, values: Mapping[str, Any], prefix: str = ""):
        self._values = values
        self._prefix = prefix

    def get(self, key: str) -> Any:
        return self._values.get(self._prefix + key)

    def integer(self, key: str, default: int | None = None, *, low: int = 1, high: int = MAX_SIZE) -> int:
        """A whole number from low to high. A list of equal ones (GGUF's per-layer counts) counts as one."""
        value = self.get(key)
        if isinstance(value, Sequence) and not isinstance(value, str) and value and all(v == value[0] for v in value):
            value = value[0]
        elif isinstance(value, Sequence) and not isinstance(value, str) and value:
            raise UnsupportedModel(f"{self._prefix}{key} differs from layer to layer, which redline does not run")
        if value is None and default is not None:
            return default
        if value is None:
            raise CheckpointError(f"the model's {self._prefix}{key} is missing")
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise CheckpointError(
                f"the model's {self._prefix}{key} must be a whole number from {low} to {high}, not {shown(value)}"
            )
        return value

    def number(self, key: str, default: float | None = None, *, above: float = 0.0) -> float:
        """A number greater than `above`, and within what the formulas it enters can bear."""
        value = self.get(key)
        if value is None and default is not None:
            return default
        if value is None:
            raise CheckpointError(f"the model's {self._prefix}{key} is missing")
        if isinstance(value, bool) or not isinstance(value, int | float) or not above < value < MAX_NUMBER:
            raise CheckpointError(
                f"the model's {self._prefix}{key} must be a number above {above:g} and below {MAX_NUMBER:g}, not {shown(value)}"
            )
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.get(key)
        if value is not None and not isinstance(value, bool):
            raise CheckpointError(f"the model's {self._prefix}{key} must be true or false, not {shown(value)}")
        return default if value is None else value

    def number_list(self, key: str) -> tuple[float, ...]:
        """A list of positive numbers; a missing one is an error."""
        value = self.get(key)
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise CheckpointError(f"the model's {self._prefix}{key} must be a list of numbers, not {shown(value)}")
        return tuple(Fields({key: item}).number(key) for item in value)

    def mapping(self, key: str) -> Mapping[str, Any]:
        value = self.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise CheckpointError(f"the model's {self._prefix}{key} must be an object, not {shown(value)}")
        return value or {}

    def refuse(self, key: str, *allowed: Any) -> None:
        """UnsupportedModel unless the key is missing, null or one of `allowed`."""
        value = self.get(key)
        if value is not None and value not in allowed:
            raise UnsupportedModel(f"{self._prefix}{key} {shown(value)} is not supported")
