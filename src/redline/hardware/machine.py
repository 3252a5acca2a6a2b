"""Records of a machine: `Machine`, its `Cpu` and its `Gpu`s. Data only; `detect.py` fills them.

Sizes in bytes. A figure that the machine does not tell is None, never a guess. Open `Machine` first.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cpu:
    """The processor as this process may use it."""

    model: str
    cores: int  # logical cores left by affinity mask and cgroup quota
    vectors: tuple[str, ...] = ()  # vector extensions that matter for matrices, as /proc/cpuinfo spells them
    l3_bytes: int | None = None  # one last-level cache


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU as its driver describes it. `index` is N of `cuda:N`."""

    index: int
    uuid: str
    name: str
    capability: tuple[int, int]
    memory_bytes: int
    free_bytes: int  # at the time of detection
    driver: str
    power_limit_w: float | None = None
    power_default_w: float | None = None
    max_sm_mhz: int | None = None
    max_memory_mhz: int | None = None

    @property
    def device(self) -> str:
        return f"cuda:{self.index}"


@dataclass(frozen=True)
class Machine:
    """Everything the planner may know of a machine.

    `notes` say what is not there or could not be found out, and why; `faults` those among them that somebody should
    mend.
    """

    cpu: Cpu
    gpus: tuple[Gpu, ...]
    memory_bytes: int  # of the host, or of the cgroup where that is smaller
    available_bytes: int  # of those, what may be taken without pushing others out
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()

    def gpu(self, device: str) -> Gpu | None:
        """The GPU called `cuda:N`, or None."""
        return next((gpu for gpu in self.gpus if gpu.device == device), None)
