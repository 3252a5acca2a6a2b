"""A false NVML: cards as data, with the methods of `redline.hardware.nvml.Nvml`."""

from __future__ import annotations

from dataclasses import dataclass, field

from redline.hardware.nvml import NvmlUnavailable

GIB = 1 << 30


@dataclass
class Card:
    uuid: str
    name: str = "NVIDIA H200"
    capability: tuple[int, int] = (9, 0)
    total: int = 140 * GIB
    free: int = 139 * GIB
    power: tuple[float | None, float | None] = (700.0, 700.0)
    clocks: tuple[int | None, int | None] = (1980, 3201)
    energy: float | None = 1234.5


@dataclass
class FakeNvml:
    cards: list[Card] = field(default_factory=list)
    broken: str = ""  # message of the error that every call raises

    def driver(self) -> str:
        return "580.159.04"

    def count(self) -> int:
        if self.broken:
            raise NvmlUnavailable(self.broken)
        return len(self.cards)

    def uuid(self, index: int) -> str:
        return self.cards[index].uuid

    def name(self, index: int) -> str:
        return self.cards[index].name

    def capability(self, index: int) -> tuple[int, int]:
        return self.cards[index].capability

    def memory(self, index: int) -> tuple[int, int]:
        return self.cards[index].total, self.cards[index].free

    def power_limits_w(self, index: int) -> tuple[float | None, float | None]:
        return self.cards[index].power

    def max_clocks_mhz(self, index: int) -> tuple[int | None, int | None]:
        return self.cards[index].clocks

    def energy_j(self, index: int) -> float | None:
        return self.cards[index].energy
