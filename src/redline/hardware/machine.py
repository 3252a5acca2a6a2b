"""Records of a machine: `Machine`, its `Cpu` and its `Gpu`s, and what connects and stores. Data only; `detect.py` fills them.

Sizes in bytes, rates in bytes/s of one direction. A figure that the machine does not tell is None, never a guess, and
`untold` of the record holds (field, reason). Open `Machine` first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from redline.hardware.chips import PCIE_LANE_BYTES_PER_S

Untold = tuple[tuple[str, str], ...]
MemoryKind = Literal["own", "coherent", "unified"]


@dataclass(frozen=True)
class Cache:
    """One cache of the first core this process may use. `shared_by` counts the logical cores that have it in common."""

    level: int
    kind: str  # Data, Instruction or Unified, as the kernel says
    size_bytes: int
    shared_by: int | None = None


@dataclass(frozen=True)
class NumaNode:
    """One memory node. Nodes with memory and no cores are GPUs' memory on coherent machines (Grace Hopper)."""

    index: int
    cores: tuple[int, ...]
    memory_bytes: int | None


@dataclass(frozen=True)
class Cpu:
    """The processor as this process may use it."""

    model: str
    cores: int  # logical cores left by affinity mask and cgroup quota
    vectors: tuple[str, ...] = ()  # vector extensions that matter for matrices, as /proc/cpuinfo spells them
    l3_bytes: int | None = None  # one last-level cache
    logical_cores: int | None = None  # of the whole machine, as are the next three
    physical_cores: int | None = None
    sockets: int | None = None
    max_mhz: float | None = None
    caches: tuple[Cache, ...] = ()
    numa: tuple[NumaNode, ...] = ()
    allowed: tuple[int, ...] = ()  # numbers of the logical cores in the affinity mask
    untold: Untold = ()


@dataclass(frozen=True)
class Pcie:
    """A GPU's slot: what it runs at now (idle cards drop their generation) and the most that card and slot do together."""

    gen: int | None
    lanes: int | None
    max_gen: int
    max_lanes: int

    @property
    def bytes_per_s(self) -> float | None:
        """Line rate at `max_gen` and the lanes in use; None for an unknown generation."""
        lane = PCIE_LANE_BYTES_PER_S.get(self.max_gen)
        return None if lane is None else lane * (self.lanes or self.max_lanes)


@dataclass(frozen=True)
class NvLinks:
    """A GPU's active NVLinks. `peers` are (bus id or "switch", links); `bytes_per_s` is None for an unknown version."""

    count: int
    version: str | None
    bytes_per_s: float | None
    peers: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class GpuProcess:
    """Another program on a GPU. The driver's process numbers are the host's, also inside a container."""

    pid: int
    memory_bytes: int | None
    name: str | None = None


@dataclass(frozen=True)
class MigSlice:
    """One MIG compute instance, which CUDA shows as a device of its own."""

    uuid: str
    name: str
    memory_bytes: int
    free_bytes: int
    sms: int | None = None


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU as its driver describes it, or one MIG slice of it. `index` is N of `cuda:N`.

    Everything after `driver` may be unknown. Momentary figures (`free_bytes`, clocks, power, temperature, utilisation,
    processes, `clock_reasons`) are of the time of detection.
    """

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
    power_min_w: float | None = None
    power_max_w: float | None = None
    power_w: float | None = None
    sm_mhz: int | None = None
    memory_mhz: int | None = None
    temperature_c: int | None = None
    sms: int | None = None
    memory_bus_bits: int | None = None
    memory_kind: MemoryKind = "own"
    ecc: bool | None = None
    ecc_pending: bool | None = None  # what it will be after the next reset
    ecc_errors: int | None = None  # uncorrected, since the driver was loaded
    utilization: float | None = None  # share of the driver's last sample in which a kernel ran
    memory_utilization: float | None = None  # share in which device memory was read or written
    processes: tuple[GpuProcess, ...] | None = None
    clock_reasons: int | None = None  # NVML's bits; `power.throttles` names those that slow it down
    compute_mode: str | None = None  # default, exclusive or prohibited
    bus_id: str | None = None
    numa_node: int | None = None
    pcie: Pcie | None = None
    nvlinks: NvLinks | None = None
    mig: bool | None = None
    slices: tuple[MigSlice, ...] = ()
    parent: str | None = None  # of a slice: the uuid of the card
    untold: Untold = ()

    @property
    def device(self) -> str:
        return f"cuda:{self.index}"

    @property
    def pin_bytes_per_s(self) -> float | None:
        """What the memory's pins carry at its highest clock: two transfers a clock times the width of the bus.

        None for a slice (it has a part of the bus) and where the driver does not tell clock and width. Source: CUDA samples,
        deviceQuery, which reckons its theoretical bandwidth so.
        """
        if self.parent is not None or self.max_memory_mhz is None or self.memory_bus_bits is None:
            return None
        return 2 * self.max_memory_mhz * 1e6 * self.memory_bus_bits / 8


@dataclass(frozen=True)
class GpuPath:
    """The way between two GPUs. `level` is what it must cross at most: switch, switches, bridge, node or system; `peer`
    whether each reads the other's memory directly."""

    first: int
    second: int
    level: str | None
    peer: bool | None
    nvlinks: int = 0


@dataclass(frozen=True)
class Disk:
    """One block device. `kind` is nvme, ssd, hdd or virtual (what a virtual machine is given; the host knows more)."""

    name: str
    kind: str
    size_bytes: int | None
    model: str | None = None


@dataclass(frozen=True)
class Storage:
    """Where models lie: the folder, its file system and the disk below it, where that is one of `Machine.disks`."""

    folder: str
    file_system: str | None
    disk: str | None
    size_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Driver:
    """The NVIDIA driver: its version, and the highest CUDA version whose programs it runs."""

    version: str
    cuda: tuple[int, int] | None


@dataclass(frozen=True)
class TorchBuild:
    """The installed torch, read from its files. `cuda` is what it was built for; None: a build for CPUs."""

    version: str
    cuda: tuple[int, int] | None


@dataclass(frozen=True)
class Machine:
    """Everything the planner may know of a machine.

    `notes` say what is not there or could not be found out, and why; `faults` those among them that somebody should
    mend. `broken` are those faults that keep a GPU which is there from being used.
    """

    cpu: Cpu
    gpus: tuple[Gpu, ...]
    memory_bytes: int  # of the host, or of the cgroup where that is smaller
    available_bytes: int  # of those, what may be taken without pushing others out
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    product: str | None = None  # what its maker calls the computer
    kernel: str | None = None
    container: bool = False
    driver: Driver | None = None
    torch: TorchBuild | None = None
    paths: tuple[GpuPath, ...] = ()
    disks: tuple[Disk, ...] = ()
    storage: Storage | None = None
    untold: Untold = ()

    def gpu(self, device: str) -> Gpu | None:
        """The GPU called `cuda:N`, or None."""
        return next((gpu for gpu in self.gpus if gpu.device == device), None)
