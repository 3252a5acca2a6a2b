"""GPUs as the NVIDIA driver's management library (NVML) describes them, without torch and without a CUDA context.

`Nvml` is what is asked of the driver (`nvml_calls.py` binds the C library, which every driver brings, to it); `read_gpus`
makes records of the answers. What a card or its driver does not tell stays None, with the driver's reason. A card that does
not answer at all hides no other. Open `read_gpus` first; it takes any object with the methods of `Nvml`.
"""

from __future__ import annotations

import ctypes
import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from redline.hardware.architectures import architecture
from redline.hardware.machine import Gpu, GpuPath, GpuProcess, MemoryKind, MigSlice, NvLinks, Pcie
from redline.hardware.specs import chip

LIBRARIES = ("libnvidia-ml.so.1", "nvml.dll")

REMEDIES: dict[int, str] = {
    4: "run as a user that may open /dev/nvidia*",
    8: "plug in the card's power cables",
    9: "load the kernel module (modprobe nvidia), or reboot after installing the driver",
    12: "install the driver again",
    15: "the card fell off the bus; reboot, and look for Xid lines in the kernel's log",
    16: "reset the card (nvidia-smi --gpu-reset) or reboot",
    17: "let the container use the card (--gpus all), or its control group",
    18: "the kernel module and the library are of different versions; reboot, or reload the module",
    28: "no card was found; look at lspci and at the kernel's log",
    999: "look for NVRM lines in the kernel's log",
}
"""What to do, by NVML's error code (nvmlReturn_t in nvml.h)."""

# nvmlNvlinkVersion_t: (name, bytes/s of one link and direction). NVLink 2 to 4: 25 GB/s, 5: 50 GB/s, 6: 100 GB/s
# (white papers of Volta, Ampere, Hopper and Blackwell; Rubin's announcement: 3.6 TB/s both ways over 18 links).
_LINK_VERSIONS: dict[int, tuple[str, float]] = {
    1: ("1.0", 20e9),
    2: ("2.0", 25e9),
    3: ("2.2", 25e9),
    4: ("3.0", 25e9),
    5: ("3.1", 25e9),
    6: ("4.0", 25e9),
    7: ("5.0", 50e9),
    8: ("6.0", 100e9),
}
_LEVELS = {0: "board", 10: "switch", 20: "switches", 30: "bridge", 40: "node", 50: "system"}  # nvmlGpuTopologyLevel_t
_MODES = {0: "default", 2: "prohibited", 3: "exclusive"}  # nvmlComputeMode_t
_NOT_SUPPORTED = 3  # nvmlReturn_t
_SILENT = "the driver does not tell it for this card"

T = TypeVar("T")


class NvmlUnavailable(Exception):
    """No GPU can be listed, or one figure cannot be had; the message says why, for people. `code` is NVML's, where it has one."""

    def __init__(self, reason: str, code: int | None = None):
        super().__init__(reason)
        self.code = code


class NoDriver(NvmlUnavailable):
    """The machine has no NVIDIA driver at all: no fault, just no GPU."""


@dataclass(frozen=True)
class Link:
    """One active NVLink: nvmlNvlinkVersion_t, and "switch" or the bus id of its other end."""

    version: int | None
    peer: str | None


class Nvml(Protocol):
    """What is asked of the driver. Each raises NvmlUnavailable, with the reason, where there is no answer; those that may
    return None have no such figure on this card."""

    def driver(self) -> str: ...
    def cuda(self) -> tuple[int, int]: ...  # the highest version it runs
    def count(self) -> int: ...
    def uuid(self, index: int) -> str: ...
    def name(self, index: int) -> str: ...
    def capability(self, index: int) -> tuple[int, int]: ...
    def memory(self, index: int) -> tuple[int, int]: ...  # (all, free) bytes; unified memories are not supported
    def power_limits_w(self, index: int) -> tuple[float | None, float | None]: ...  # (in force, default)
    def power_range_w(self, index: int) -> tuple[float, float]: ...  # limits that may be set
    def power_w(self, index: int) -> float: ...  # now
    def max_clocks_mhz(self, index: int) -> tuple[int | None, int | None]: ...  # (SM, memory)
    def clocks_mhz(self, index: int) -> tuple[int | None, int | None]: ...  # now
    def clock_reasons(self, index: int) -> int | None: ...  # bits of nvmlClocksEventReason*
    def energy_j(self, index: int) -> float | None: ...  # since the driver was loaded
    def temperature_c(self, index: int) -> int: ...
    def utilization(self, index: int) -> tuple[float, float]: ...  # shares of time: a kernel ran, memory was used
    def processes(self, index: int) -> tuple[tuple[int, int | None], ...]: ...  # (host's process number, bytes)
    def ecc(self, index: int) -> tuple[bool, bool]: ...  # (now, after the next reset)
    def ecc_errors(self, index: int) -> int: ...  # uncorrected, since the driver was loaded
    def cores(self, index: int) -> int: ...  # float32 lanes of all multiprocessors
    def bus_bits(self, index: int) -> int: ...
    def compute_mode(self, index: int) -> int: ...
    def bus_id(self, index: int) -> str: ...
    def pcie(self, index: int) -> tuple[int | None, int | None, int, int]: ...  # generation, lanes, and the most of both
    def links(self, index: int) -> tuple[Link, ...]: ...  # active NVLinks
    def path(self, first: int, second: int) -> int: ...  # nvmlGpuTopologyLevel_t
    def peer_access(self, first: int, second: int) -> bool: ...
    def mig(self, index: int) -> tuple[bool, bool]: ...  # (now, after the next reset)
    def slices(self, index: int) -> tuple[MigSlice, ...]: ...


def connect() -> Nvml:
    """The driver's own library, initialised. Raises NvmlUnavailable with the reason."""
    from redline.hardware.nvml_calls import DriverNvml

    for name in LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        return DriverNvml(library)
    raise NoDriver(f"no NVIDIA driver here: {LIBRARIES[0]} was not found")


def read_gpus(nvml: Nvml, visible: str | None = None, *, host_memory: tuple[int, int] = (0, 0)) -> tuple[Gpu, ...]:
    """The GPUs that CUDA would number 0, 1, ...; `visible` is the value of CUDA_VISIBLE_DEVICES, where set.

    `host_memory` is (all, available) bytes of the host, which is a unified GPU's memory too. Cards that do not answer are
    left out (`silent` says why). Raises NvmlUnavailable when the driver cannot answer at all.
    """
    cards = [_card(nvml, physical, host_memory) for physical in range(nvml.count()) if _refusal(nvml, physical) is None]
    devices = _devices(cards)
    return tuple(_numbered(devices[position], index) for index, position in enumerate(_visible(devices, visible)))


def silent(nvml: Nvml) -> tuple[str, ...]:
    """A sentence for each card that the driver counts and cannot speak for. Raises NvmlUnavailable as `read_gpus` does."""
    refusals = ((physical, _refusal(nvml, physical)) for physical in range(nvml.count()))
    return tuple(f"GPU {physical} of the driver does not answer: {reason}" for physical, reason in refusals if reason)


def read_paths(nvml: Nvml, gpus: tuple[Gpu, ...]) -> tuple[GpuPath, ...]:
    """The way between each two of `gpus` (none between slices: they have no peers)."""
    places = {nvml.uuid(i): i for i in range(nvml.count()) if _refusal(nvml, i) is None}
    whole = [gpu for gpu in gpus if gpu.uuid in places]
    found = []
    for position, first in enumerate(whole):
        for second in whole[position + 1 :]:
            one, other = places[first.uuid], places[second.uuid]
            level = _told(functools.partial(nvml.path, one, other))
            peer = _told(functools.partial(nvml.peer_access, one, other))
            links = dict(first.nvlinks.peers).get(second.bus_id or "?", 0) if first.nvlinks else 0
            found.append(GpuPath(first.index, second.index, None if level is None else _LEVELS.get(level), peer, links))
    return tuple(found)


def _refusal(nvml: Nvml, physical: int) -> str | None:
    """Why a card cannot be asked even for its name and memory; None: it can."""
    try:
        nvml.uuid(physical), nvml.name(physical), nvml.capability(physical)
        _memory(nvml, physical, nvml.name(physical), (0, 0))
    except NvmlUnavailable as reason:
        return str(reason)
    return None


def _told(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except NvmlUnavailable:
        return None


class _Questions:
    """Asks one card, and keeps the reason of every figure it does not get."""

    def __init__(self, nvml: Nvml, physical: int):
        self.nvml, self.physical = nvml, physical
        self.untold: list[tuple[str, str]] = []

    def ask(self, fields: str, call: Callable[[int], T]) -> T | None:
        """`fields` are names of `Gpu` that the answer fills, with blanks between."""
        try:
            return call(self.physical)
        except NvmlUnavailable as reason:
            self.untold += [(field, str(reason)) for field in fields.split()]
            return None

    def pair(self, fields: str, call: Callable[[int], tuple[T | None, T | None]]) -> tuple[T | None, T | None]:
        """Two figures; each may be missing alone."""
        answer = self.ask(fields, call)
        if answer is None:
            return None, None
        self.untold += [(field, _SILENT) for field, value in zip(fields.split(), answer, strict=True) if value is None]
        return answer


def _card(nvml: Nvml, physical: int, host_memory: tuple[int, int]) -> Gpu:
    asked = _Questions(nvml, physical)
    name, capability = nvml.name(physical), nvml.capability(physical)
    (total, free), kind = _memory(nvml, physical, name, host_memory)
    limit, default = asked.pair("power_limit_w power_default_w", nvml.power_limits_w)
    low, high = asked.pair("power_min_w power_max_w", nvml.power_range_w)
    max_sm, max_memory = asked.pair("max_sm_mhz max_memory_mhz", nvml.max_clocks_mhz)
    sm_clock, memory_clock = asked.pair("sm_mhz memory_mhz", nvml.clocks_mhz)
    ecc, ecc_pending = asked.pair("ecc ecc_pending", nvml.ecc)
    busy, memory_busy = asked.pair("utilization memory_utilization", nvml.utilization)
    mig = _told(lambda: nvml.mig(physical)[0])
    return Gpu(
        index=physical,
        uuid=nvml.uuid(physical),
        name=name,
        capability=capability,
        memory_bytes=total,
        free_bytes=free,
        driver=nvml.driver(),
        power_limit_w=limit,
        power_default_w=default,
        max_sm_mhz=max_sm,
        max_memory_mhz=max_memory,
        power_min_w=low,
        power_max_w=high,
        power_w=asked.ask("power_w", nvml.power_w),
        sm_mhz=sm_clock,
        memory_mhz=memory_clock,
        temperature_c=asked.ask("temperature_c", nvml.temperature_c),
        sms=_multiprocessors(asked, capability),
        memory_bus_bits=asked.ask("memory_bus_bits", nvml.bus_bits),
        memory_kind=kind,
        ecc=ecc,
        ecc_pending=ecc_pending,
        ecc_errors=asked.ask("ecc_errors", nvml.ecc_errors),
        utilization=busy,
        memory_utilization=memory_busy,
        processes=_processes(asked),
        clock_reasons=_given(asked, "clock_reasons", nvml.clock_reasons),
        compute_mode=_mode(asked),
        bus_id=asked.ask("bus_id", nvml.bus_id),
        pcie=_pcie(asked),
        nvlinks=_nvlinks(asked),
        mig=mig,
        slices=(_told(lambda: nvml.slices(physical)) or ()) if mig else (),
        untold=tuple(asked.untold),
    )


def _memory(nvml: Nvml, physical: int, name: str, host: tuple[int, int]) -> tuple[tuple[int, int], MemoryKind]:
    """((all, free) bytes, kind). A unified GPU has no memory of its own to tell of: it takes the host's."""
    row = chip(name)
    try:
        sizes = nvml.memory(physical)
    except NvmlUnavailable as reason:
        if reason.code != _NOT_SUPPORTED and not (row and row.board.unified):
            raise
        return host, "unified"
    if row is not None and row.board.unified:
        return sizes, "unified"
    return sizes, "coherent" if row is not None and row.board.c2c_bytes_per_s is not None else "own"


def _given(asked: _Questions, field: str, call: Callable[[int], T | None]) -> T | None:
    value = asked.ask(field, call)
    if value is None and not any(name == field for name, _ in asked.untold):
        asked.untold.append((field, _SILENT))
    return value


def _multiprocessors(asked: _Questions, capability: tuple[int, int]) -> int | None:
    """The driver counts lanes; the table knows how many a multiprocessor has."""
    known = architecture(capability)
    if known is None:
        asked.untold.append(("sms", "the lanes of a multiprocessor are not known for this compute capability"))
        return None
    lanes = asked.ask("sms", asked.nvml.cores)
    return None if lanes is None else lanes // known.lanes


def _processes(asked: _Questions) -> tuple[GpuProcess, ...] | None:
    rows = asked.ask("processes", asked.nvml.processes)
    return None if rows is None else tuple(GpuProcess(pid, size) for pid, size in rows)


def _mode(asked: _Questions) -> str | None:
    number = asked.ask("compute_mode", asked.nvml.compute_mode)
    return None if number is None else _MODES.get(number, str(number))


def _pcie(asked: _Questions) -> Pcie | None:
    answer = asked.ask("pcie", asked.nvml.pcie)
    return None if answer is None else Pcie(*answer)


def _nvlinks(asked: _Questions) -> NvLinks | None:
    links = asked.ask("nvlinks", asked.nvml.links)
    if links is None:
        return None
    versions = [_LINK_VERSIONS.get(link.version or 0) for link in links]
    rate = sum(version[1] for version in versions if version) if all(versions) else None
    name = versions[0][0] if versions and versions[0] else None
    peers = Counter(link.peer for link in links if link.peer is not None)
    return NvLinks(len(links), name, rate, tuple(sorted(peers.items())))


def _devices(cards: list[Gpu]) -> list[Gpu]:
    """What CUDA may list: cards, or their MIG slices where that mode is on (a card without a slice is not usable)."""
    found: list[Gpu] = []
    for card in cards:
        found += [_slice(card, part) for part in card.slices] if card.mig else [card]
    return found


def _slice(card: Gpu, part: MigSlice) -> Gpu:
    fields: dict[str, Any] = {**vars(card), "uuid": part.uuid, "name": part.name, "memory_bytes": part.memory_bytes}
    fields |= {"free_bytes": part.free_bytes, "sms": part.sms, "parent": card.uuid, "slices": (), "nvlinks": None}
    return Gpu(**fields)


def _numbered(gpu: Gpu, index: int) -> Gpu:
    return Gpu(**{**vars(gpu), "index": index})


def _visible(devices: list[Gpu], visible: str | None) -> list[int]:
    """Positions in CUDA's order. As CUDA does, the list ends at the first entry that names no GPU.

    Where MIG is on, CUDA shows one slice alone: the first, or the one that is named (MIG user guide, "CUDA device
    enumeration").
    """
    if visible is None:
        parts = [position for position, gpu in enumerate(devices) if gpu.parent is not None]
        return parts[:1] if parts else list(range(len(devices)))
    whole = [position for position, gpu in enumerate(devices) if gpu.parent is None]
    chosen: list[int] = []
    for entry in (part.strip() for part in visible.split(",")):
        if entry.isdigit():
            numbers = whole or list(range(len(devices)))
            found = [numbers[int(entry)]] if int(entry) < len(numbers) else []
        else:
            found = [i for i, gpu in enumerate(devices) if entry and gpu.uuid.startswith(entry)]
        if len(found) != 1 or found[0] in chosen:
            break
        chosen += found
        if devices[found[0]].parent is not None:
            break
    return chosen
