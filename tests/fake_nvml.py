"""A false NVML: cards as data, with the methods of `redline.hardware.nvml.Nvml`. A figure that is None is refused, as NVML does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from redline.hardware.machine import MigSlice
from redline.hardware.nvml import Link, NvmlUnavailable

GIB = 1 << 30
NOT_SUPPORTED = 3
NVLINK_4 = 6  # nvmlNvlinkVersion_t

T = TypeVar("T")


@dataclass
class Card:
    """One card; as it stands an idle H200 with its 18 links to a switch."""

    uuid: str
    name: str = "NVIDIA H200"
    capability: tuple[int, int] = (9, 0)
    total: int | None = 140 * GIB
    free: int = 139 * GIB
    power: tuple[float | None, float | None] = (700.0, 700.0)
    power_range: tuple[float, float] | None = (200.0, 700.0)
    power_now: float | None = 76.0
    clocks: tuple[int | None, int | None] = (1980, 3201)
    clocks_now: tuple[int | None, int | None] = (345, 3201)
    reasons: int | None = 0x1  # idle
    energy: float | None = 1234.5
    temperature: int | None = 31
    utilization: tuple[float, float] | None = (0.0, 0.0)
    processes: tuple[tuple[int, int | None], ...] | None = ()
    ecc: tuple[bool, bool] | None = (True, True)
    ecc_errors: int | None = 0
    cores: int | None = 16896
    bus_bits: int | None = 6144
    mode: int | None = 0
    bus_id: str | None = "0000:3b:00.0"
    pcie: tuple[int | None, int | None, int, int] | None = (1, 16, 5, 16)
    links: tuple[Link, ...] | None = (Link(NVLINK_4, "switch"),) * 18
    mig: tuple[bool, bool] | None = (False, False)
    slices: tuple[MigSlice, ...] = ()
    lost: str = ""  # the driver's reason for not answering for this card


@dataclass
class FakeNvml:
    cards: list[Card] = field(default_factory=list)
    broken: str = ""  # message of the error that every call raises
    cuda_version: tuple[int, int] | None = (13, 0)
    version: str = "580.159.04"
    peers: bool | None = True

    def driver(self) -> str:
        if self.broken:
            raise NvmlUnavailable(self.broken)
        return self.version

    def cuda(self) -> tuple[int, int]:
        return _told(self.cuda_version)

    def count(self) -> int:
        if self.broken:
            raise NvmlUnavailable(self.broken)
        return len(self.cards)

    def uuid(self, index: int) -> str:
        if self.cards[index].lost:
            raise NvmlUnavailable(self.cards[index].lost, 15)
        return self.cards[index].uuid

    def name(self, index: int) -> str:
        return self.cards[index].name

    def capability(self, index: int) -> tuple[int, int]:
        return self.cards[index].capability

    def memory(self, index: int) -> tuple[int, int]:
        return _told(self.cards[index].total), self.cards[index].free

    def power_limits_w(self, index: int) -> tuple[float | None, float | None]:
        return self.cards[index].power

    def power_range_w(self, index: int) -> tuple[float, float]:
        return _told(self.cards[index].power_range)

    def power_w(self, index: int) -> float:
        return _told(self.cards[index].power_now)

    def max_clocks_mhz(self, index: int) -> tuple[int | None, int | None]:
        return self.cards[index].clocks

    def clocks_mhz(self, index: int) -> tuple[int | None, int | None]:
        return self.cards[index].clocks_now

    def clock_reasons(self, index: int) -> int | None:
        return self.cards[index].reasons

    def energy_j(self, index: int) -> float | None:
        return self.cards[index].energy

    def temperature_c(self, index: int) -> int:
        return _told(self.cards[index].temperature)

    def utilization(self, index: int) -> tuple[float, float]:
        return _told(self.cards[index].utilization)

    def processes(self, index: int) -> tuple[tuple[int, int | None], ...]:
        return _told(self.cards[index].processes)

    def ecc(self, index: int) -> tuple[bool, bool]:
        return _told(self.cards[index].ecc)

    def ecc_errors(self, index: int) -> int:
        return _told(self.cards[index].ecc_errors)

    def cores(self, index: int) -> int:
        return _told(self.cards[index].cores)

    def bus_bits(self, index: int) -> int:
        return _told(self.cards[index].bus_bits)

    def compute_mode(self, index: int) -> int:
        return _told(self.cards[index].mode)

    def bus_id(self, index: int) -> str:
        return _told(self.cards[index].bus_id)

    def pcie(self, index: int) -> tuple[int | None, int | None, int, int]:
        return _told(self.cards[index].pcie)

    def links(self, index: int) -> tuple[Link, ...]:
        return _told(self.cards[index].links)

    def path(self, first: int, second: int) -> int:
        return 50 if first != second else 0

    def peer_access(self, first: int, second: int) -> bool:
        return _told(self.peers)

    def mig(self, index: int) -> tuple[bool, bool]:
        return _told(self.cards[index].mig)

    def slices(self, index: int) -> tuple[MigSlice, ...]:
        return self.cards[index].slices


def _told(value: T | None) -> T:
    if value is None:
        raise NvmlUnavailable("Not Supported", NOT_SUPPORTED)
    return value
