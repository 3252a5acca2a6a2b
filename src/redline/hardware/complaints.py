"""What is wrong with the GPUs of a machine, one sentence each: `of_gpu`, `of_several`, `of_software`.

An error keeps a GPU that is here from being used; a warning makes it slower, smaller or less sure than it could be. Each
says what to do. `blocked` and `unfit` say why a card should not be measured. Knows nothing of how figures came about.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from redline.hardware.drivers import rulings
from redline.hardware.machine import Gpu, Machine
from redline.hardware.power import throttles
from redline.hardware.specs import architecture, chip

Severity = Literal["info", "warning", "error"]

_GIBI = 1 << 30
_BUSY_MEMORY = 0.1  # share of a card's memory in other hands that is worth a line
_BUSY_TIME = 0.1  # likewise of its time
_LISTED = 3  # processes that a sentence names
_THROTTLE_WORDS = {
    "hw_slowdown": "the hardware (heat or power)",
    "sync_boost": "a slower card of its boost group",
    "sw_thermal": "heat",
    "hw_thermal": "heat, by the hardware",
    "hw_power_brake": "the power supply's brake",
}
_CLOCKS_SET = 0x2  # nvmlClocksEventReasonApplicationsClocksSetting


@dataclass(frozen=True)
class Finding:
    """One sentence about the machine; a warning or an error says what to do."""

    severity: Severity
    sentence: str


def of_gpu(gpu: Gpu) -> Iterator[Finding]:
    """What is wrong with one card, whoever uses it."""
    for judge in (_shared, _locked, _powered, _slowed, _remembered, _attached, _listed):
        for severity, sentence in judge(gpu):
            yield Finding(severity, f"{gpu.device}: {sentence}")


def of_software(machine: Machine) -> Iterator[Finding]:
    """What driver and torch rule out; the same sentence once, however many cards it is true of."""
    said: set[str] = set()
    for gpu in machine.gpus:
        for ruling in rulings(gpu, machine.driver, machine.torch):
            if ruling.sentence not in said:
                said.add(ruling.sentence)
                yield Finding("error" if ruling.fatal else "info", ruling.sentence)


def of_several(machine: Machine) -> Iterator[Finding]:
    """What only shows where there are several cards, or cards and several memory nodes."""
    if len({gpu.name for gpu in machine.gpus}) > 1:
        yield Finding(
            "info",
            "the GPUs are of several kinds, which CUDA numbers fastest first: set CUDA_DEVICE_ORDER=PCI_BUS_ID for this order",
        )
    for path in machine.paths:
        if path.peer is False:
            yield Finding(
                "warning",
                f"cuda:{path.first} and cuda:{path.second} cannot read each other's memory: what they exchange goes through the host; "
                "look at nvidia-smi topo -p2p r, and at ACS in the firmware",
            )
    for gpu in machine.gpus:
        near = next((node for node in machine.cpu.numa if node.index == gpu.numa_node), None)
        if near is not None and near.cores and machine.cpu.allowed and not set(near.cores) & set(machine.cpu.allowed):
            yield Finding(
                "warning",
                f"{gpu.device}: it hangs on memory node {near.index}, none of whose cores this process may use: "
                f"start it with numactl --cpunodebind={near.index}",
            )


def blocked(machine: Machine, gpu: Gpu) -> str | None:
    """Why nothing at all can be run on this card; None: it can be used."""
    fatal = [ruling.sentence for ruling in rulings(gpu, machine.driver, machine.torch) if ruling.fatal]
    modes = [sentence for severity, sentence in _locked(gpu) if severity == "error"]
    return next(iter((*fatal, *modes)), None)


def unfit(gpu: Gpu) -> str | None:
    """Why figures measured on this card now would not be the card's; None: measure."""
    if why := disturbed(gpu):
        return why
    if _capped(gpu):
        return f"its power is capped at {gpu.power_limit_w:.0f} W of {gpu.power_default_w:.0f} W"
    return None


def disturbed(gpu: Gpu) -> str | None:
    """Why figures measured on this card now would not even be its own under its present power limit; None: they would."""
    if gpu.utilization is not None and gpu.utilization > _BUSY_TIME:
        return f"it is busy, kernels of other programs run {gpu.utilization:.0%} of the time"
    holding = _holding(gpu)
    if holding:
        return f"it is throttled by {holding}"
    return None


def _holding(gpu: Gpu) -> str:
    """What holds the clocks down, in words. A card at its full power limit is at work, not ill, so that is left out."""
    names = [name for name in throttles(gpu.clock_reasons or 0) if name != "sw_power_cap"]
    return " and ".join(_THROTTLE_WORDS.get(name, name) for name in names)


def _capped(gpu: Gpu) -> bool:
    return gpu.power_limit_w is not None and gpu.power_default_w is not None and gpu.power_limit_w < gpu.power_default_w - 1


Judgement = Iterator[tuple[Severity, str]]


def _shared(gpu: Gpu) -> Judgement:
    """Other programs on the card."""
    taken = gpu.memory_bytes - gpu.free_bytes
    if gpu.memory_kind != "unified" and taken > _BUSY_MEMORY * gpu.memory_bytes:
        used, total = taken / _GIBI, gpu.memory_bytes / _GIBI
        yield (
            "warning",
            f"{used:.1f} of {total:.1f} GiB are taken by other processes{_names(gpu)}: end them or plan with what is left",
        )
    if gpu.utilization is not None and gpu.utilization > _BUSY_TIME:
        yield (
            "warning",
            f"other programs' kernels run {gpu.utilization:.0%} of the time{_names(gpu)}: end them, or expect so much less speed",
        )


def _locked(gpu: Gpu) -> Judgement:
    """The card's compute mode."""
    if gpu.compute_mode == "prohibited":
        yield "error", "its compute mode forbids CUDA: nvidia-smi -c DEFAULT"
    elif gpu.compute_mode == "exclusive" and gpu.processes:
        yield "error", f"its compute mode lets one process in, and one is there{_names(gpu)}: end it, or nvidia-smi -c DEFAULT"


def _names(gpu: Gpu) -> str:
    """The largest processes, where the driver tells."""
    rows = sorted(gpu.processes or (), key=lambda row: -(row.memory_bytes or 0))
    if not rows:
        return ""
    words = []
    for row in rows[:_LISTED]:
        size = "" if row.memory_bytes is None else f" {row.memory_bytes / _GIBI:.1f} GiB"
        words.append(f"{row.name or 'process'} {row.pid}{size}")
    more = f" and {len(rows) - _LISTED} more" if len(rows) > _LISTED else ""
    return f" ({', '.join(words)}{more})"


def _powered(gpu: Gpu) -> Judgement:
    if _capped(gpu):
        yield (
            "warning",
            f"power is capped at {gpu.power_limit_w:.0f} W of {gpu.power_default_w:.0f} W: "
            "expect lower clocks, or raise the limit with nvidia-smi -pl",
        )


def _slowed(gpu: Gpu) -> Judgement:
    """Clocks held down at this moment."""
    holding = _holding(gpu)
    if holding:
        heat = "" if gpu.temperature_c is None else f" at {gpu.temperature_c} °C"
        clocks = "" if gpu.sm_mhz is None or gpu.max_sm_mhz is None else f", {gpu.sm_mhz} of {gpu.max_sm_mhz} MHz"
        yield "warning", f"throttled by {holding}{heat}{clocks}: look at cooling and power supply"
    if (gpu.clock_reasons or 0) & _CLOCKS_SET:
        yield "info", "its clocks were set by somebody: nvidia-smi -rac and -rgc undo it"


def _remembered(gpu: Gpu) -> Judgement:
    """Error correction and kinds of memory."""
    if gpu.ecc is False:
        yield "info", "ECC is off: a flipped bit changes answers without a sign; nvidia-smi -e 1 and a reset turn it on"
    if gpu.ecc_errors:
        yield (
            "warning",
            f"{gpu.ecc_errors} memory errors could not be corrected since the driver was loaded: reset the card; if they return, replace it",
        )
    if gpu.memory_kind == "unified":
        yield "info", "processor and GPU share one memory: what other programs and cached files take is missing to both"


def _attached(gpu: Gpu) -> Judgement:
    slot = gpu.pcie
    if slot is not None and slot.lanes is not None and slot.lanes < slot.max_lanes:
        yield (
            "warning",
            f"its slot runs {slot.lanes} of {slot.max_lanes} lanes: seat it anew, or expect slower loading and swapping",
        )


def _listed(gpu: Gpu) -> Judgement:
    """What the tables do not know."""
    if architecture(gpu.capability) is None:
        major, minor = gpu.capability
        yield "warning", f"compute capability {major}.{minor} is not in redline's table: float16 is assumed"
    elif gpu.parent is not None:
        yield "info", f"a MIG slice of {gpu.parent}: its limits are its own and are only known once measured"
    elif chip(gpu.name) is None:
        yield "info", f"{gpu.name} is not in redline's chip table: its limits are only known once measured"
