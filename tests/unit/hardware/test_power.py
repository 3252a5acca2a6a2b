"""Joules come from the counter of the very card that CUDA means, and are nothing where nothing counts."""

from __future__ import annotations

from fake_nvml import Card, FakeNvml
from redline.hardware.machine import Cpu, Machine
from redline.hardware.nvml import Nvml, NvmlUnavailable, read_gpus
from redline.hardware.power import energy_counter

CARDS = [Card("GPU-aa1", energy=10.0), Card("GPU-ab2", energy=20.0), Card("GPU-cc3", energy=None)]


def _machine(visible: str | None) -> Machine:
    return Machine(Cpu("cpu", 2), read_gpus(FakeNvml(CARDS), visible), 0, 0)


def test_the_counter_is_that_of_the_card_cuda_means() -> None:
    nvml = FakeNvml([*CARDS])
    counter = energy_counter(_machine("1,0"), "cuda:0", lambda: nvml)
    assert counter is not None and counter() == 20.0
    nvml.cards[1] = Card("GPU-ab2", energy=25.5)
    assert counter() == 25.5


def test_without_a_counter_there_is_none() -> None:
    def gone() -> Nvml:
        raise NvmlUnavailable("no driver")

    assert energy_counter(_machine(None), "cpu", lambda: FakeNvml(CARDS)) is None
    assert energy_counter(_machine(None), "cuda:2", lambda: FakeNvml(CARDS)) is None
    assert energy_counter(_machine(None), "cuda:7", lambda: FakeNvml(CARDS)) is None
    assert energy_counter(_machine(None), "cuda:0", gone) is None
