"""Where a plan runs: this machine with what was measured on it, or so many of a chip from the table.

A place holds two ceilings: `peak`, which nobody beats (a measurement, or the data sheet), and `ceilings`, which forecasts stand
on (the same measurement, or what an H200 reaches of its data sheet). Knows nothing of models. Open `Place`, then `on_chips`.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redline.errors import ConfigError
from redline.hardware.ceilings import Ceilings, from_table
from redline.hardware.specs import CHIPS, Chip, architecture, chip, named
from redline.plan.efficiency import Efficiency, curves
from redline.plan.links import Links

if TYPE_CHECKING:
    from redline.hardware.machine import Machine
    from redline.plan.corrections import Shelf

# Shares of its data sheet that an H200 reached: read 4.59 of 4.8 TB/s, bfloat16 766 of 989.5 TFLOP/s, fp8 1453 of 1979,
# float32 51.2 of 67, int8 824 of 1979 (bench/results/2026-11-21.jsonl; torch's scaled_mm and _int_mm there). Others are taken to
# be as bfloat16.
READ_SHARE = 0.956
MATMUL_SHARE: Mapping[str, float] = {"float32": 0.764, "fp8": 0.734, "int8": 0.416}
OTHER_MATMUL_SHARE = 0.774


@dataclass(frozen=True)
class Place:
    """A machine, or `count` equal chips. Rates and bytes are of one chip.

    `native` are the types that it multiplies. `doubts` are the reasons why a forecast may lie off, each with its share.
    """

    name: str
    chip: str
    count: int
    ceilings: Ceilings
    peak: Ceilings
    memory_bytes: int
    usable_bytes: int
    native: frozenset[str]
    efficiency: Efficiency
    doubts: tuple[tuple[str, float], ...]
    link_bytes_per_s: float | None = None  # to the other chips, one direction
    host_bytes_per_s: float | None = None  # from the host's memory
    power_w: float | None = None  # limit in force
    power_full_w: float | None = None  # the limit it is sold with; None: the one in force
    power_least_w: float | None = None  # the lowest that can be set; None: not known
    cap_w: float | None = None  # a lower limit that is planned
    on_cpu: bool = False
    taken_bytes: int = 0  # of the memory, in other hands
    unified: bool = False
    announced: bool = False
    links: Links | None = None  # what was measured of the ways to it; None: the line rates above stand for them
    learned: Shelf | None = None  # what steps took on this machine; None: forecasts stand as they are

    @property
    def measured(self) -> bool:
        return self.ceilings.source == "measured"

    @functools.cached_property
    def dtype(self) -> str:
        """The type of activations, and of weights that are not packed."""
        return next((name for name in ("bfloat16", "float16") if name in self.native and self.rate(name)), "float32")

    def rate(self, dtype: str) -> float | None:
        """FLOP/s that products of `dtype` reach; None: this chip does not multiply it, or its rate is not known."""
        return self.ceilings.matmul_flops.get(dtype)


def on_chips(text: str, share: float = 0.9) -> Place:
    """The place that `--on` means: a chip of the table, or `4xH100`. `share` of its memory may be used. Raises ConfigError."""
    match = re.fullmatch(r"\s*(?:(\d+)\s*[x×*]\s*)?(\S.*?)\s*", text, re.IGNORECASE)
    count = int(match.group(1) or 1) if match else 0
    if match is None or not 1 <= count <= 1024:
        raise ConfigError(f"{text!r} names no machine", hint="write a chip or a number of them: h200, 4xh100", param="on")
    row = find_chip(match.group(2))
    sheet = from_table("table", row)
    memory = row.driver_memory_bytes or row.memory_bytes
    doubts = (
        (
            f"{row.name} was not measured: its data sheet, and what an H200 reaches of its own",
            0.05 if row.name == "H200" else 0.15,
        ),
        *(() if row.capability == (9, 0) else ((f"the curves were measured on an H200, not on {row.name}", 0.2),)),
    )
    return Place(
        name=row.name if count == 1 else f"{count} x {row.name}",
        chip=row.name,
        count=count,
        ceilings=_reachable(sheet),
        peak=sheet,
        memory_bytes=memory,
        usable_bytes=int(share * memory),
        native=row.native,
        efficiency=curves(on_cpu=False),
        doubts=doubts,
        link_bytes_per_s=_link(row),
        host_bytes_per_s=row.host_bytes_per_s,
        power_w=row.board.power_w,
        unified=row.board.unified,
        announced=row.announced,
    )


def here(machine: Machine, device: str, known: Ceilings | None, share: float = 0.9) -> Place:
    """This machine's `device` (`cpu` or `cuda:N`), with as many of its GPUs as are like it.

    Raises ConfigError for a GPU that was never measured and that no table knows.
    """
    gpu = machine.gpu(device)
    if gpu is None:
        return _processor(machine, known, share)
    row = chip(gpu.name)
    if known is None and row is None:
        raise ConfigError(f"{gpu.name} was not measured and is in no table", hint="run redline doctor", param="on")
    alike = sum(other.name == gpu.name for other in machine.gpus)
    arch = architecture(gpu.capability)
    if known is not None:
        peak = ceilings = known
        doubts: tuple[tuple[str, float], ...] = ()
    else:
        assert row is not None
        peak = from_table(device, row)
        ceilings = _reachable(peak)
        doubts = ((f"{gpu.name} was not measured: run redline doctor", 0.15),)
    if row is None or row.capability != (9, 0):
        doubts += ((f"the curves were measured on an H200, not on {gpu.name}", 0.2),)
    return Place(
        name=gpu.name if alike == 1 else f"{alike} x {gpu.name}",
        chip=row.name if row else gpu.name,
        count=alike,
        ceilings=ceilings,
        peak=peak,
        memory_bytes=gpu.memory_bytes,
        usable_bytes=int(share * gpu.memory_bytes),
        native=arch.native if arch else frozenset(("float32", "float16")),
        efficiency=curves(on_cpu=False),
        doubts=doubts,
        link_bytes_per_s=_link(row),
        host_bytes_per_s=row.host_bytes_per_s if row else None,
        power_w=gpu.power_limit_w or (row.board.power_w if row else None),
        power_full_w=gpu.power_default_w,
        power_least_w=gpu.power_min_w,
        taken_bytes=gpu.memory_bytes - gpu.free_bytes,
        unified=row.board.unified if row else False,
    )


def _processor(machine: Machine, known: Ceilings | None, share: float) -> Place:
    if known is None:
        raise ConfigError(
            "this machine was not measured", hint="run redline doctor, or plan for a chip with --on h200", param="on"
        )
    doubts: tuple[tuple[str, float], ...] = ()
    if known.spread > 0.25:
        doubts = ((f"the machine was busy when it was measured: samples lay {known.spread:.0%} apart", known.spread / 2),)
    return Place(
        name=f"{machine.cpu.model}, {machine.cpu.cores} cores",
        chip="cpu",
        count=1,
        ceilings=known,
        peak=known,
        memory_bytes=machine.memory_bytes,
        usable_bytes=int(share * machine.memory_bytes),
        native=frozenset(known.matmul_flops),
        efficiency=curves(on_cpu=True),
        doubts=doubts,
        on_cpu=True,
        taken_bytes=max(0, machine.memory_bytes - machine.available_bytes),
    )


def find_chip(text: str) -> Chip:
    """The table's row that people call `text`. Raises ConfigError with the nearest names."""
    found = named(text)
    if found is None:
        names = {row.name.lower(): row.name for row in CHIPS}
        near = difflib.get_close_matches(text.lower(), names, n=3, cutoff=0.3)
        hint = f"did you mean {' or '.join(names[name] for name in near)}?" if near else f"known: {', '.join(names.values())}"
        raise ConfigError(f"no chip of the table is called {text!r}", hint=hint, param="on")
    return found


def _link(row: Chip | None) -> float | None:
    """Bytes/s to another chip, one direction: the chips' own link, else the way through the host."""
    return None if row is None else row.board.link_bytes_per_s or row.host_bytes_per_s


def _reachable(sheet: Ceilings) -> Ceilings:
    """What a chip is taken to reach of its data sheet."""
    return Ceilings(
        device=sheet.device,
        name=sheet.name,
        read_bytes_per_s=READ_SHARE * sheet.read_bytes_per_s,
        matmul_flops={name: MATMUL_SHARE.get(name, OTHER_MATMUL_SHARE) * rate for name, rate in sheet.matmul_flops.items()},
        measured_at="",
        source="table",
    )
