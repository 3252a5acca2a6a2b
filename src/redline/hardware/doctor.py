"""The data behind `redline doctor`: what the machine is, what it was measured to do, what is wrong and what to do.

Knows nothing of models, plans or printing. `complaints.py` judges a single GPU. Open `examine` first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from redline.hardware import complaints
from redline.hardware.ceilings import Ceilings, from_table
from redline.hardware.complaints import Finding, Severity
from redline.hardware.machine import Gpu, Machine
from redline.hardware.power import throttles
from redline.hardware.specs import architecture, chip
from redline.hardware.survey import Survey

__all__ = ["Finding", "Report", "Severity", "examine"]

_GIBI = 1 << 30
_WEAK_READ = 0.7  # measured bandwidth under this share of the data sheet's means that something is wrong
_WAYS = ("host to device", "device to host")
_WEAK_WAY = 0.5  # of the line rate; sound slots reach 0.8 to 0.9
_NOISY = 0.25
_LITTLE_MEMORY = 2 * _GIBI
_LITTLE_DISK = 10 * _GIBI
_FAR_FILES = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "lustre")


@dataclass(frozen=True)
class Report:
    """`findings` for people and the exit code, `as_dict()` for `--json`."""

    machine: Machine
    ceilings: Mapping[str, Ceilings]
    findings: tuple[Finding, ...]
    surveys: Mapping[str, Survey] = field(default_factory=dict)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(severity, sentence) of every finding, errors first."""
        order = ("error", "warning", "info")
        return sorted(((f.severity, f.sentence) for f in self.findings), key=lambda pair: order.index(pair[0]))

    @property
    def healthy(self) -> bool:
        return all(finding.severity == "info" for finding in self.findings)

    @property
    def usable(self) -> bool:
        """Whether all that is here can be used: nothing is an error."""
        return all(finding.severity != "error" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: the machine, the ceilings by device (data sheet figures where not measured) and the findings.

        What is not known is null, and `untold` of its record says why.
        """
        machine = self.machine
        plain = ("product", "kernel", "container", "memory_bytes", "available_bytes")
        return {
            **{name: getattr(machine, name) for name in plain},
            "cpu": _record(machine.cpu),
            "gpus": [describe(gpu) for gpu in machine.gpus],
            "driver": machine.driver and _record(machine.driver),
            "torch": machine.torch and _record(machine.torch),
            "paths": [_record(path) for path in machine.paths],
            "disks": [_record(disk) for disk in machine.disks],
            "storage": machine.storage and _record(machine.storage),
            "untold": dict(machine.untold),
            "ceilings": {device: _record(known) for device, known in _known(machine, self.ceilings).items()},
            "surveys": {device: survey.as_dict() for device, survey in self.surveys.items()},
            "findings": [_record(finding) for finding in self.findings],
        }


def examine(
    machine: Machine,
    ceilings: Mapping[str, Ceilings],
    refused: Mapping[str, str] | None = None,
    surveys: Mapping[str, Survey] | None = None,
) -> Report:
    """Judge a machine. `ceilings` holds what was measured, by device (`cpu`, `cuda:0`); a device may be missing.

    `refused` has the reason for each device that was not measured because the figures would not have been its own.
    `surveys` is what else was measured, by device, of all GPUs together under `cuda`.
    """
    findings = [*_host_findings(machine), *_storage_findings(machine)]
    findings += _ceiling_findings(machine, ceilings, refused or {})
    findings += _survey_findings(surveys or {})
    for gpu in machine.gpus:
        findings += complaints.of_gpu(gpu)
    findings += complaints.of_software(machine)
    findings += complaints.of_several(machine)
    return Report(machine, dict(ceilings), tuple(findings), dict(surveys or {}))


def describe(gpu: Gpu) -> dict[str, Any]:
    """A GPU for JSON, with what its compute capability brings and its row of the chip table."""
    known, row = architecture(gpu.capability), chip(gpu.name)
    return _record(gpu) | {
        "capability": "{}.{}".format(*gpu.capability),
        "architecture": known.name if known else None,
        "native": sorted(known.native) if known else None,
        "instructions": sorted(known.instructions) if known else None,
        "shared_memory_bytes": known.shared_memory_bytes if known else None,
        "pin_bytes_per_s": gpu.pin_bytes_per_s,
        "throttled": None if gpu.clock_reasons is None else list(throttles(gpu.clock_reasons)),
        "chip": row and row.name,
    }


def _record(record: Any) -> dict[str, Any]:
    """A record as a dictionary, its reasons by field."""
    fields = dataclasses.asdict(record)
    if "untold" in fields:
        fields["untold"] = dict(fields["untold"])
    return fields


def _host_findings(machine: Machine) -> Iterator[Finding]:
    for note in machine.notes:
        severity: Severity = "error" if note in machine.broken else "warning" if note in machine.faults else "info"
        yield Finding(severity, note)
    if not {"avx2", "asimd", "sve"} & set(machine.cpu.vectors):
        yield Finding(
            "warning", f"{machine.cpu.model} shows no AVX2, NEON or SVE: answers will be very slow, use another machine"
        )
    if machine.cpu.cores == 1:
        yield Finding("warning", "only one core may be used: engine and server will share it; raise the CPU limit or affinity")
    if 0 < machine.available_bytes < _LITTLE_MEMORY:
        free = machine.available_bytes / _GIBI
        yield Finding("warning", f"only {free:.1f} GiB of memory are available: free some, or choose a small model")


def _storage_findings(machine: Machine) -> Iterator[Finding]:
    storage = machine.storage
    if storage is None:
        return
    if storage.free_bytes < _LITTLE_DISK:
        free = storage.free_bytes / _GIBI
        yield Finding("warning", f"{storage.folder} has {free:.1f} GiB left: free some, or set REDLINE_CACHE to another disk")
    disk = next((disk for disk in machine.disks if disk.name == storage.disk), None)
    if disk is not None and disk.kind == "hdd":
        yield Finding("info", f"models lie on {disk.name}, a disk that turns: loading takes minutes; an SSD takes seconds")
    if storage.file_system in _FAR_FILES:
        yield Finding("info", f"models lie on {storage.file_system}, over the network: loading is as fast as that is")


def _ceiling_findings(machine: Machine, ceilings: Mapping[str, Ceilings], refused: Mapping[str, str]) -> Iterator[Finding]:
    for device, name in _devices(machine):
        measured = ceilings.get(device)
        if measured is None:
            why = f"not measured: {refused[device]}" if device in refused else "not measured yet: run redline doctor"
            yield Finding("info", f"{device}: {why}")
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


def _survey_findings(surveys: Mapping[str, Survey]) -> Iterator[Finding]:
    """Ways that carry far less than they could."""
    for device, survey in surveys.items():
        for figure in survey.figures:
            if figure.name in _WAYS and figure.share is not None and figure.share < _WEAK_WAY and not survey.despite:
                yield Finding(
                    "warning",
                    f"{device}: {figure.name} copies reach {figure.share:.0%} of what the way carries: look at the slot's lanes and "
                    "generation, and at which memory node this process runs on",
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
