"""What was measured of the ways to a chip and between chips, for forecasts that would otherwise stand on line rates.

Only surveys that nothing disturbed count. Open `Links`, then `links_of`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redline.hardware.ceilings import identify

if TYPE_CHECKING:
    from redline.hardware.machine import Machine
    from redline.hardware.survey import Survey


@dataclass(frozen=True)
class Links:
    """Rates in bytes/s of one direction: `host` from the host's pinned memory, `sums` that each of `chips` sends in a large sum.

    `sum_s` is the time of a small sum over `chips`. None: not measured.
    """

    host_bytes_per_s: float | None = None
    sums_bytes_per_s: float | None = None
    sum_s: float | None = None
    chips: int = 1

    @property
    def round_s(self) -> float | None:
        """Of a small sum over two chips: what each doubling of a group adds."""
        return None if self.sum_s is None or self.chips < 2 else self.sum_s / math.log2(self.chips)

    @classmethod
    def of(cls, own: Survey | None, group: Survey | None, chips: int) -> Links | None:
        """From the surveys of a chip and of all chips together; None: nothing was measured that counts."""
        host = _sound(own, "host to device")
        sums, small = _sound(group, "all-reduce"), _sound(group, "all-reduce, small")
        return cls(host, sums, small, chips) if host or sums or small else None


def links_of(machine: Machine, device: str) -> Links | None:
    """What `redline doctor --measure` found for `device`."""
    from redline.hardware.survey import identify_group, load  # of a machine that is here: plans for others ask nobody

    if machine.gpu(device) is None:
        return None
    group = load(identify_group(machine)) if len(machine.gpus) > 1 else None
    return Links.of(load(identify(machine, device)), group, len(machine.gpus))


def _sound(survey: Survey | None, name: str) -> float | None:
    return None if survey is None or survey.despite else survey.value(name)
