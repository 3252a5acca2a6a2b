"""Which kernels a decode step launches, how often, and how long they take, as the driver saw them.

Two answers of different length are watched by torch's profiler; what the longer one has more of, over the steps it has
more, is a step. Kernels inside a CUDA graph are seen one by one. Open `trace` first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

STEPS = 16
_NOT_KERNELS = ("Memcpy", "Memset")


@dataclass(frozen=True)
class Kernel:
    """One kernel of a step. Kernels that overlap, as with programmatic launch, may add up to more than the step."""

    name: str
    per_step: float
    us_per_step: float


def trace(run: Callable[[int], object], around: int) -> list[Kernel] | str:
    """The kernels of one step of `run(output tokens)` near token `around`, longest first; a sentence where they cannot be seen."""
    first = max(1, around - STEPS // 2)
    try:
        few, many = _watched(run, first), _watched(run, first + STEPS)
    except Exception as error:  # of a driver's library: what was measured before must not be lost with it
        return f"kernels were not counted: {type(error).__name__}: {error}"
    if not many:
        return "kernels were not counted: torch's profiler saw none"
    none = (0, 0.0)
    found = []
    for name, (count, us) in many.items():
        before, us_before = few.get(name, none)
        if count > before:
            found.append(Kernel(name, (count - before) / STEPS, (us - us_before) / STEPS))
    return sorted(found, key=lambda kernel: -kernel.us_per_step)


def per_layer(kernels: Sequence[Kernel], num_layers: int) -> int:
    """Launches of a step that recur in every layer."""
    return sum(int(kernel.per_step + 0.01) // num_layers for kernel in kernels)


def _watched(run: Callable[[int], object], output: int) -> dict[str, tuple[int, float]]:
    """Count and microseconds by kernel."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as watched:  # or it warns that it forgets
        run(output)
        torch.cuda.synchronize()
    found: dict[str, tuple[int, float]] = {}
    for event in watched.events() or ():
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.name.startswith(_NOT_KERNELS):
            count, us = found.get(event.name, (0, 0.0))
            found[event.name] = (count + 1, us + event.time_range.elapsed_us())
    return found
