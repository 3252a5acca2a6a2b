"""The data behind `redline doctor`: what the machine is, what it was measured to do, what is wrong and what to do.

Knows nothing of models, plans or printing. Open `examine` first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from redline.hardware.ceilings import Ceilings, from_table
from redline.hardware.machine import Gpu, Machine
from redline.hardware.specs import architecture, chip

Severity = Literal["info", "warning", "error"]

_GIBI = 1 << 30
_BUSY_MEMORY = 0.1  # share of a card's memory in other hands that is worth a line
_WEAK_READ = 0.7  # measured bandwidth under this share of the data sheet's means that something is wrong
_NOISY = 0.25
_LITTLE_MEMORY = 2 * _GIBI


@dataclass(frozen=True)
class Finding:
    """One sentence about the machine; a warning or an error says what to do."""

    severity: Severity
    sentence: str


@dataclass(frozen=True)
class Report:
    """`findings` for people and the exit code, `as_dict()` for `--json`."""

    machine: Machine
    ceilings: Mapping[str, Ceilings]
    findings: tuple[Finding, ...]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(severity, sentence) of every finding, errors first."""
        order = ("error", "warning", "info")
        return sorted(((f.severity, f.sentence) for f in self.findings), key=lambda pair: order.index(pair[0]))

    @property
    def healthy(self) -> bool:
        return all(finding.severity == "info" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: the machine, the ceilings by device (data sheet figures where not measured) and the findings."""
        return {
            "cpu": dataclasses.asdict(self.machine.cpu),
            "memory_bytes": self.machine.memory_bytes,
            "available_bytes": self.machine.available_bytes,
            "gpus": [_describe(gpu) for gpu in self.machine.gpus],
            "ceilings": {device: dataclasses.asdict(known) for device, known in _known(self.machine, self.ceilings).items()},
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
        }


def examine(machine: Machine, ceilings: Mapping[str, Ceilings]) -> Report:
    """Judge a machine. `ceilings` holds what was measured, by device (`cpu`, `cuda:0`); a device may be missing."""
    findings = [*_host_findings(machine), *_ceiling_findings(machine, ceilings)]
    for gpu in machine.gpus:
        findings += _gpu_findings(gpu)
    return Report(machine, dict(ceilings), tuple(findings))


def _host_findings(machine: Machine) -> Iterator[Finding]:
    for note in machine.notes:
        yield Finding("warning" if note in machine.faults else "info", note)
    if not {"avx2", "asimd", "sve"} & set(machine.cpu.vectors):
        yield Finding(
            "warning", f"{machine.cpu.model} shows no AVX2, NEON or SVE: answers will be very slow, use another machine"
        )
    if machine.cpu.cores == 1:
        yield Finding("warning", "only one core may be used: engine and server will share it; raise the CPU limit or affinity")
    if 0 < machine.available_bytes < _LITTLE_MEMORY:
        free = machine.available_bytes / _GIBI
        yield Finding("warning", f"only {free:.1f} GiB of memory are available: free some, or choose a small model")


def _gpu_findings(gpu: Gpu) -> Iterator[Finding]:
    taken = gpu.memory_bytes - gpu.free_bytes
    if taken > _BUSY_MEMORY * gpu.memory_bytes:
        used, total = taken / _GIBI, gpu.memory_bytes / _GIBI
        yield Finding(
            "warning",
            f"{gpu.device}: {used:.1f} of {total:.1f} GiB are taken by other processes: end them or plan with what is left",
        )
    if gpu.power_limit_w is not None and gpu.power_default_w is not None and gpu.power_limit_w < gpu.power_default_w - 1:
        yield Finding(
            "warning",
            f"{gpu.device}: power is capped at {gpu.power_limit_w:.0f} W of {gpu.power_default_w:.0f} W: "
            "expect lower clocks, or raise the limit with nvidia-smi -pl",
        )
    if architecture(gpu.capability) is None:
        major, minor = gpu.capability
        yield Finding(
            "warning", f"{gpu.device}: compute capability {major}.{minor} is not in redline's table: float16 is assumed"
        )


def _ceiling_findings(machine: Machine, ceilings: Mapping[str, Ceilings]) -> Iterator[Finding]:
    for device, name in _devices(machine):
        measured = ceilings.get(device)
        if measured is None:
            yield Finding("info", f"{device}: not measured yet: run redline doctor")
            continue
        row = chip(name)
        if row is not None and measured.read_bytes_per_s < _WEAK_READ * row.read_bytes_per_s:
            share = measured.read_bytes_per_s / row.read_bytes_per_s
            yield Finding(
                "warning",
                f"{device}: reads at {share:.0%} of its data sheet: look for another process, heat, ECC errors or a power cap",
            )
        if measured.spread > _NOISY:
            yield Finding(
                "warning",
                f"{device}: repeated measurements lay {measured.spread:.0%} apart, so others were using the machine: run redline doctor --measure when it is quiet",
            )


def _devices(machine: Machine) -> Iterator[tuple[str, str]]:
    yield "cpu", machine.cpu.model
    for gpu in machine.gpus:
        yield gpu.device, gpu.name


def _known(machine: Machine, ceilings: Mapping[str, Ceilings]) -> dict[str, Ceilings]:
    """The measured ceilings, and for each unmeasured card that the table knows, the data sheet's."""
    known = dict(ceilings)
    for gpu in machine.gpus:
        row = chip(gpu.name)
        if gpu.device not in known and row is not None:
            known[gpu.device] = from_table(gpu.device, row)
    return known


def _describe(gpu: Gpu) -> dict[str, Any]:
    known = architecture(gpu.capability)
    return dataclasses.asdict(gpu) | {
        "capability": "{}.{}".format(*gpu.capability),
        "architecture": known.name if known else None,
        "native": sorted(known.native) if known else None,
        "shared_memory_bytes": known.shared_memory_bytes if known else None,
    }
