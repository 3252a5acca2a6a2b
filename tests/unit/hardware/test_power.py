"""Joules come from the counter of the very card that CUDA means, and are nothing where nothing counts."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pytest

from fake_nvml import Card, FakeNvml
from redline.hardware.machine import Cpu, Gpu, Machine
from redline.hardware.nvml import Nvml, NvmlUnavailable, read_gpus
from redline.hardware.power import LOOK_EVERY_S, LOOK_SHARE, PowerMeter, energy_counter, power_source, throttles

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


@dataclass
class Device(FakeNvml):
    """One card that takes `idle` watts, and `busy` more while `works`, on a clock that the test turns."""

    now: float = 50.0
    idle: float = 100.0
    busy: float = 400.0
    reasons: int | None = 0
    gone: bool = False
    reading_s: float = 0.0  # what a look at the counter takes
    asked: int = 0

    def clock(self) -> float:
        return self.now

    def run(self, seconds: float, busy_s: float) -> None:
        self.now += seconds
        self.cards[0].energy = (self.cards[0].energy or 0.0) + self.idle * seconds + self.busy * busy_s

    def energy_j(self, index: int) -> float | None:
        self.asked += 1
        self.now += self.reading_s
        if self.gone:
            raise NvmlUnavailable("the driver is gone")
        return super().energy_j(index)

    def clock_reasons(self, index: int) -> int | None:
        return self.reasons


def _gpus(nvml: FakeNvml) -> tuple[Gpu, ...]:
    return tuple(
        Gpu(index=i, uuid=c.uuid, name=c.name, capability=(9, 0), memory_bytes=1, free_bytes=1, driver="580.1")
        for i, c in enumerate(nvml.cards)
    )


def _device(**fields: Any) -> tuple[Device, PowerMeter]:
    device = Device([Card("GPU-aa1", energy=1000.0)], **fields)
    machine = Machine(Cpu("cpu", 2), _gpus(device), 0, 0)
    return device, PowerMeter(power_source(machine, "cuda:0", lambda: device), device.clock)


def _steps(device: Device, meter: PowerMeter, number: int, seconds: float = 0.02) -> None:
    for _ in range(number):
        device.run(seconds, seconds)
        meter.step(seconds)


def test_the_energy_of_steps_is_told_from_that_of_waiting() -> None:
    device, meter = _device()
    for _ in range(4):
        device.run(1.0, 0.0)
        meter.look()
    assert meter.idle_watts == pytest.approx(100.0) and meter.since(meter.mark()).watts is None
    mark = meter.mark()
    _steps(device, meter, 60)
    device.run(0.7, 0.0)  # then it waits
    meter.look()
    assert meter.step_joules == pytest.approx(60 * 0.02 * 500.0)
    assert meter.joules == pytest.approx(4 * 100.0 + 60 * 0.02 * 500.0 + 70.0), "every joule is somebody's"
    seen = meter.since(mark)
    assert seen.watts == pytest.approx(500.0) and seen.over_s == pytest.approx(1.2)
    assert seen.idle_watts == pytest.approx(100.0) and seen.throttled == () and seen.reason is None


def test_a_short_request_is_told_the_power_of_the_steps_before_it() -> None:
    device, meter = _device()
    _steps(device, meter, 50)
    mark = meter.mark()
    _steps(device, meter, 2)
    meter.look()
    seen = meter.since(mark)
    assert seen.watts == pytest.approx(500.0) and seen.over_s >= 0.2
    assert seen.idle_watts is None and seen.reason is not None and "never seen idle" in seen.reason


def test_what_holds_the_clocks_down_is_named_and_timed() -> None:
    device, meter = _device(reasons=0x1)
    _steps(device, meter, 20)
    mark = meter.mark()
    device.reasons = 0x4 | 0x20 | 0x2  # power cap, heat, and clocks that somebody set
    _steps(device, meter, 50)
    device.reasons = 0
    meter.look()
    assert meter.since(mark).throttled == ("sw_power_cap", "sw_thermal")
    assert meter.throttled_s["sw_power_cap"] == pytest.approx(1.0, abs=0.3)
    later = meter.mark()
    _steps(device, meter, 50)
    assert meter.since(later).throttled == ()
    assert throttles(0x8 | 0x10 | 0x40 | 0x80) == ("hw_slowdown", "sync_boost", "hw_thermal", "hw_power_brake")


def test_looking_takes_a_small_part_of_the_time_however_slow_the_driver_is() -> None:
    device, meter = _device(reading_s=0.02)
    began, before = device.now, device.asked
    _steps(device, meter, 5000)
    looks = device.asked - before
    assert 2 <= looks and looks * device.reading_s < 2 * LOOK_SHARE * (device.now - began)
    fast, meter = _device()
    before = fast.asked
    _steps(fast, meter, 5000)
    assert fast.asked - before == pytest.approx(100.0 / LOOK_EVERY_S, rel=0.1)


class Aside:
    """Another thread, which answers when the test says so."""

    def __init__(self) -> None:
        self.open: list[tuple[Any, Future[Any]]] = []

    def __call__(self, ask: Any) -> Future[Any]:
        answer: Future[Any] = Future()
        self.open.append((ask, answer))
        return answer

    def answer(self) -> None:
        for ask, answer in self.open:
            answer.set_result(ask())
        self.open.clear()


def test_nobody_waits_for_a_slow_driver_that_is_asked_aside() -> None:
    aside, device = Aside(), Device([Card("GPU-aa1", energy=1000.0)])
    machine = Machine(Cpu("cpu", 2), _gpus(device), 0, 0)
    meter = PowerMeter(power_source(machine, "cuda:0", lambda: device), device.clock, aside)
    asked = device.asked
    device.run(1.0, 0.0)
    meter.look()
    _steps(device, meter, 40)
    assert device.asked == asked and len(aside.open) == 1, "it is not asked again before it has answered"
    assert meter.idle_watts is None and meter.joules == 0.0
    device.cards[0].energy = 1100.0  # as it was when the question was put
    aside.answer()
    mark = meter.mark()
    assert meter.idle_watts == pytest.approx(100.0) and mark.busy_s == 0.0
    device.cards[0].energy = 1100.0 + 500.0 * 0.8
    meter.look()
    aside.answer()
    seen = meter.since(mark)
    assert seen.watts == pytest.approx(500.0) and seen.over_s == pytest.approx(0.8), "all steps since the look before count"
    assert meter.joules == pytest.approx(100.0 + 400.0)


def test_an_answer_that_ends_when_the_interpreter_does_raises_nothing() -> None:
    """Threads take no work then, and a stream that nobody read to its end is closed all the same."""
    device = Device([Card("GPU-aa1", energy=1000.0)])
    threads = ThreadPoolExecutor(1)
    source = power_source(Machine(Cpu("cpu", 2), _gpus(device), 0, 0), "cuda:0", lambda: device)
    meter = PowerMeter(source, device.clock, threads.submit)
    threads.shutdown()
    _steps(device, meter, 40)
    meter.look()
    assert meter.since(meter.mark()).watts is None


def test_what_is_not_there_is_null_with_a_reason() -> None:
    machine = Machine(Cpu("cpu", 2), _gpus(FakeNvml(CARDS)), 0, 0)

    def broken() -> Nvml:
        raise NvmlUnavailable("the driver and its library differ")

    for device, connect, said in (
        ("cpu", lambda: FakeNvml(CARDS), "CPU"),
        ("cuda:0", broken, "differ"),
        ("cuda:2", lambda: Device(CARDS), "no energy counter"),
        ("cuda:0", lambda: FakeNvml([]), "does not list"),
    ):
        meter = PowerMeter(power_source(machine, device, connect))
        meter.step(1.0)
        seen = meter.since(meter.mark())
        assert seen.watts is None and seen.reason is not None and said in seen.reason, device
        assert said in meter.no_joules
    slice_ = Machine(Cpu("cpu", 2), (replace(machine.gpus[0], parent="GPU-aa1"),), 0, 0)
    assert "slice" in power_source(slice_, "cuda:0", lambda: Device(CARDS)).no_joules
    untold = power_source(machine, "cuda:0", lambda: Device(CARDS, reasons=None))
    assert untold.joules is not None and untold.throttled is None and "clocks" in untold.no_throttled


def test_a_driver_that_goes_away_ends_no_engine() -> None:
    device, meter = _device()
    _steps(device, meter, 30)
    device.gone = True
    _steps(device, meter, 30)
    assert meter.no_joules == "the driver is gone" and meter.step_joules > 0
    assert meter.since(meter.mark()).reason == "the driver is gone"


def test_a_counter_that_begins_anew_counts_nothing_twice() -> None:
    device, meter = _device()
    _steps(device, meter, 30)
    before = meter.joules
    device.cards[0].energy = 0.0
    device.run(1.0, 0.0)
    meter.look()
    assert meter.joules == before
