"""What every op of this room has in common: `OpSpec`, the record that tests, benchmarks and docs are derived from.

An op is a file: its formula, a float32 reference, a plain-torch path for CPUs, a public wrapper and its `SPEC`. Its Triton
kernels lie beside it in `<op>_triton.py`, imported by the wrapper on the first CUDA tensor, so that a CPU machine neither
needs Triton nor waits for its import. This file knows no op. Open `OpSpec` first.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from redline.ops import TARGETS, Op, Target

DTYPES: dict[str, torch.dtype] = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}

Inputs = dict[str, Any]
"""Keyword arguments of one call."""

MOST_MOVED = 1 << 24
"""Random numbers that are drawn on the CPU."""


@dataclass(frozen=True)
class OpSpec:
    """One op with everything needed to run and judge it.

    `make_inputs(axes, dtype, device, seed)` gives keyword arguments that `reference` and `run` both take. The reference
    returns its results in float32 (or as integers) and changes nothing; `run` returns its results, and what it changes in place
    are further ones: the arguments named in `mutates`. `triton` is "module:function" with the signature of `run`.
    """

    op: Op
    reference: Callable[..., tuple[Tensor, ...]]
    run: Callable[..., Any]
    make_inputs: Callable[[Mapping[str, int], torch.dtype, torch.device, int], Inputs]
    cases: tuple[Mapping[str, int], ...]
    tolerance: str  # a class of kernels.tolerance.TOLERANCES
    triton: str | None = None
    mutates: tuple[str, ...] = ()
    batch_invariant: bool = False  # a row's result does not depend, bit for bit, on the other rows

    @property
    def name(self) -> str:
        return self.op.name

    def triton_launcher(self) -> Callable[..., Any]:
        """The function that launches the Triton kernels. Imports Triton."""
        assert self.triton is not None, f"{self.name} has no Triton kernel"
        module, _, function = self.triton.partition(":")
        launcher: Callable[..., Any] = getattr(importlib.import_module(module), function)
        return launcher

    def results(self, run: Callable[..., Any], inputs: Inputs) -> tuple[Tensor, ...]:
        """The results of `run` (the wrapper or the Triton launcher) on `inputs`, in the order of the reference's.
        Works on the inputs themselves: an op in place changes them."""
        returned = run(**inputs)
        changed = tuple(tensor for name in self.mutates for tensor in _as_tuple(inputs[name]))
        return changed if returned is None else (*_as_tuple(returned), *changed)


def _as_tuple(value: Tensor | list[Tensor] | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (value,) if isinstance(value, Tensor) else tuple(value)


def use_triton(x: Tensor) -> bool:
    """Whether an op on `x` runs its Triton kernel (on a GPU) or plain torch (on a CPU)."""
    return x.is_cuda


@dataclass(frozen=True)
class Device:
    """What a launcher needs to know of the device to choose its tiles."""

    target: Target
    processors: int  # streaming multiprocessors


INTERPRETER = Device(TARGETS[90], processors=4)
"""What a CPU tensor is launched for: Triton's interpreter, with few processors so that tiny shapes are split too."""


@functools.cache
def device_of(device: torch.device) -> Device:
    """The device's table entry: its own capability, or the nearest older one the table has."""
    if device.type != "cuda":
        return INTERPRETER
    properties = torch.cuda.get_device_properties(device)
    capability = properties.major * 10 + properties.minor
    nearest = max((known for known in TARGETS if known <= capability), default=min(TARGETS))
    return Device(TARGETS[nearest], properties.multi_processor_count)


HOPPER = 90
"""Compute capability of the cards that the CUDA C++ of cuda/ is for."""


def is_hopper(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether kernels of cuda/ can take operands of this type there: on a Hopper card, in bf16."""
    return device.type == "cuda" and dtype is torch.bfloat16 and device_of(device).target.capability == HOPPER


DEPENDENT_FROM = 90
"""The first chips whose kernels can start before the kernel before them has ended (programmatic dependent launch)."""


def dependent_launch(x: Tensor) -> dict[str, bool]:
    """What a Triton launch adds so that its kernel may start early; the kernel, told by DEPENDENT, waits before it reads what
    the kernel before it writes."""
    dependent = x.is_cuda and device_of(x.device).target.capability >= DEPENDENT_FROM
    return {"DEPENDENT": True, "launch_pdl": True} if dependent else {"DEPENDENT": False}


def next_power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def random_tensor(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int) -> Tensor:
    """Standard normal values, the same on every device: drawn on the CPU and moved, up to MOST_MOVED. Larger ones are drawn where they will lie, where
    the head of an 8B takes milliseconds and not five seconds."""
    if math.prod(shape) > MOST_MOVED:
        return torch.randn(shape, generator=torch.Generator(device).manual_seed(seed), device=device).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype).to(device)
