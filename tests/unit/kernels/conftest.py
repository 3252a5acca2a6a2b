"""Triton's interpreter for the kernel tests: on only where TRITON_INTERPRET=1 was set before Python started."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Shapes here are tiny: a second thread would only wait."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def interpreter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run Triton kernels on CPU tensors, or skip with the reason."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("needs TRITON_INTERPRET=1 in the environment, as `make test` sets it")
    from triton.runtime import interpreter

    patch: Callable[..., None] = interpreter._patch_lang_tensor

    def patch_with_index(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    # Triton 3.6 turns a loop bound, an array of one element, into an int in a way that numpy 2.4 refuses (triton issue 9171).
    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch_with_index)
    with np.errstate(all="ignore"):  # an exp that overflows to infinity is no surprise in a kernel
        yield
