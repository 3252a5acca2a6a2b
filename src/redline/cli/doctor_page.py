"""The page of `redline doctor` as a person reads it: `text`. Only words; what is known and what is wrong comes in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from redline.cli import survey_page
from redline.hardware.ceilings import Ceilings
from redline.hardware.doctor import Report
from redline.hardware.machine import Cpu, Gpu, GpuPath, Machine, Untold
from redline.hardware.power import throttles
from redline.hardware.specs import architecture
from redline.plan.corrections import Corrections

COLOURS = {"error": "red", "warning": "yellow", "info": None}
_GIBI = 1 << 30
_WIDTH = 11

Rows = Iterator[tuple[str, str]]


def text(report: Report, choices: dict[str, dict[str, Any]], learned: Mapping[str, Sequence[Corrections]] | None = None) -> str:
    """The report: what is here, what it can do, what models' steps took here, what would be chosen, what is wrong."""
    machine = report.machine
    rows = [*_host(machine), *_software(machine)]
    for gpu in machine.gpus:
        rows += _gpu(gpu)
    rows += [(f"{path.first} and {path.second}", _path(path)) for path in machine.paths]
    rows += [("not told", sentence) for sentence in _untold((*machine.untold, *machine.cpu.untold))]
    rows += [("can do", f"{device}: {_rates(ceilings)}") for device, ceilings in report.ceilings.items()]
    rows += [row for survey in report.surveys.values() for row in survey_page.rows(survey)]
    if not report.surveys:
        rows.append(("measured", "no copies, launches, products by size, attention and links yet: redline doctor --measure"))
    rows += [("learned", f"{device}: {_learned(each)}") for device, kept in (learned or {}).items() for each in kept]
    rows += [("would take", f"{name.replace('_', '-')} {choice['value']}: {choice['why']}") for name, choice in choices.items()]
    lines = [f"{name:<{_WIDTH}} {value}" for name, value in rows]
    lines += [click.style(f"{severity:<{_WIDTH}} {sentence}", fg=COLOURS[severity]) for severity, sentence in report.pairs]
    return "\n".join(lines)


def _host(machine: Machine) -> Rows:
    place = [machine.product, machine.kernel and f"kernel {machine.kernel}", "in a container" if machine.container else None]
    if any(place):
        yield "computer", ", ".join(part for part in place if part)
    cpu = machine.cpu
    vectors = f", {' '.join(cpu.vectors)}" if cpu.vectors else ""
    yield "processor", f"{cpu.model}, {cpu.cores} cores{vectors}{_whole(cpu)}"
    if cpu.caches:
        yield "caches", ", ".join(_cache(cache.level, cache.kind, cache.size_bytes, cache.shared_by) for cache in cpu.caches)
    if len(cpu.numa) > 1:
        nodes = (f"{node.index}: {len(node.cores)} cores, {_gib(node.memory_bytes)}" for node in cpu.numa)
        yield "nodes", "; ".join(nodes)
    yield "memory", f"{machine.memory_bytes / _GIBI:.1f} GiB, {machine.available_bytes / _GIBI:.1f} GiB available"
    for disk in machine.disks:
        model = f", {disk.model}" if disk.model else ""
        yield "disk", f"{disk.name}, {disk.kind}, {_gib(disk.size_bytes)}{model}"
    if machine.storage is not None:
        storage = machine.storage
        on = " on ".join(part for part in (storage.file_system, storage.disk) if part) or "an unknown file system"
        yield "models", f"{storage.folder}, {on}, {_gib(storage.free_bytes)} of {_gib(storage.size_bytes)} free"


def _whole(cpu: Cpu) -> str:
    """The whole machine's cores, where more than this process may use."""
    if cpu.logical_cores is None or cpu.logical_cores == cpu.cores:
        return ""
    return f" (the machine has {cpu.logical_cores}, {cpu.physical_cores} physical in {cpu.sockets} sockets)"


def _cache(level: int, kind: str, size: int, shared_by: int | None) -> str:
    letter = {"Data": "d", "Instruction": "i"}.get(kind, "")
    amount = f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
    return f"L{level}{letter} {amount}" + (f" for {shared_by} cores" if shared_by and shared_by > 1 else "")


def _software(machine: Machine) -> Rows:
    if machine.driver is not None:
        runs = f", runs CUDA up to {_dotted(machine.driver.cuda)}" if machine.driver.cuda else ""
        yield "driver", f"{machine.driver.version}{runs}"
    if machine.torch is not None:
        build = f"for CUDA {_dotted(machine.torch.cuda)}" if machine.torch.cuda else "for CPUs"
        yield "torch", f"{machine.torch.version}, built {build}"


def _gpu(gpu: Gpu) -> Rows:
    known = architecture(gpu.capability)
    free = f"{gpu.free_bytes / _GIBI:.1f} of {gpu.memory_bytes / _GIBI:.1f} GiB free"
    parts = [gpu.name, known and known.name, f"capability {_dotted(gpu.capability)}", gpu.sms and f"{gpu.sms} multiprocessors"]
    yield gpu.device, ", ".join(part for part in (*parts, free, f"driver {gpu.driver}") if part)
    memory = [
        {"own": "its own", "coherent": "its own, coherent with the processor's", "unified": "shared with the processor"}[
            gpu.memory_kind
        ],
        None if gpu.ecc is None else f"ECC {'on' if gpu.ecc else 'off'}",
        gpu.pin_bytes_per_s and f"its pins carry {gpu.pin_bytes_per_s / 1e9:.0f} GB/s",
    ]
    yield "  memory", ", ".join(part for part in memory if part)
    yield from _state(gpu)
    if known is not None:
        yield "  formats", f"native: {' '.join(sorted(known.native))}"
        yield "  kernels", f"may use {' '.join(sorted(known.instructions))}, {known.shared_memory_bytes >> 10} KiB shared a block"
    links = [text for text in (_slot(gpu), _nvlinks(gpu)) if text]
    if links:
        yield "  links", ", ".join(links)
    if gpu.mig is not None and gpu.parent is not None:
        yield "  MIG", f"a slice of {gpu.parent}"
    for sentence in _untold(gpu.untold):
        yield "  not told", sentence


def _state(gpu: Gpu) -> Rows:
    """Power, clocks, heat and use at the moment."""
    parts = []
    if gpu.power_limit_w is not None:
        now = "" if gpu.power_w is None else f"{gpu.power_w:.0f} of "
        default = "" if gpu.power_default_w is None else f" (default {gpu.power_default_w:.0f}"
        range_w = "" if gpu.power_max_w is None else f", {gpu.power_min_w:.0f} to {gpu.power_max_w:.0f} can be set"
        parts.append(f"{now}{gpu.power_limit_w:.0f} W{default}{range_w}{')' if default else ''}")
    if gpu.max_sm_mhz is not None:
        parts.append(f"{'' if gpu.sm_mhz is None else f'{gpu.sm_mhz} of '}{gpu.max_sm_mhz} MHz")
    if gpu.temperature_c is not None:
        parts.append(f"{gpu.temperature_c} °C")
    if gpu.utilization is not None:
        parts.append(f"{gpu.utilization:.0%} busy")
    if gpu.clock_reasons is not None and throttles(gpu.clock_reasons):
        parts.append(f"held down by {' '.join(throttles(gpu.clock_reasons))}")
    if parts:
        yield "  now", ", ".join(parts)


def _slot(gpu: Gpu) -> str:
    if gpu.pcie is None:
        return ""
    lanes = gpu.pcie.lanes or gpu.pcie.max_lanes
    rate = "" if gpu.pcie.bytes_per_s is None else f" {gpu.pcie.bytes_per_s / 1e9:.0f} GB/s"
    node = "" if gpu.numa_node is None else f" on node {gpu.numa_node}"
    return f"PCIe {gpu.pcie.max_gen} x{lanes}{rate}{node}"


def _nvlinks(gpu: Gpu) -> str:
    links = gpu.nvlinks
    if links is None or links.count == 0:
        return ""
    version = "" if links.version is None else f" {links.version}"
    rate = "" if links.bytes_per_s is None else f", {links.bytes_per_s / 1e9:.0f} GB/s each way"
    peers = " and ".join(f"{count} to {peer}" for peer, count in links.peers)
    return f"{links.count} NVLinks{version}{f' ({peers})' if peers else ''}{rate}"


def _path(path: GpuPath) -> str:
    peer = {True: "read each other's memory", False: "do not read each other's memory", None: "peer access is not told"}[
        path.peer
    ]
    over = f"over {path.nvlinks} NVLinks" if path.nvlinks else f"over {path.level or 'an unknown way'}"
    return f"{peer}, {over}"


def _untold(untold: Untold) -> Iterator[str]:
    """Fields with the same reason in one sentence."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for field, reason in untold:
        by_reason[reason].append(field)
    for reason, fields in by_reason.items():
        yield f"{', '.join(fields)}: {reason}"


def _rates(ceilings: Ceilings) -> str:
    rates = [f"reads {ceilings.read_bytes_per_s / 1e9:.1f} GB/s"]
    rates += [f"{dtype} {rate / 1e12:.2f} TFLOP/s" for dtype, rate in ceilings.matmul_flops.items()]
    when = f"measured {ceilings.measured_at}" if ceilings.source == "measured" else "by its data sheet"
    return f"{', '.join(rates)} ({when})"


def _learned(kept: Corrections) -> str:
    ways = "".join(f", {name.replace('_', '-')} {value}" for name, value in kept.ways.items())
    factors = sorted(kind.middle[0] for kind in kept.kinds)
    return (
        f"{kept.model} in {kept.weights}{ways}: steps take {factors[0]:.2f} to {factors[-1]:.2f} times the forecast; "
        f"corrected by {kept.steps:,} steps measured here on {kept.date}"
    )


def _gib(size: int | None) -> str:
    return "size unknown" if size is None else f"{size / _GIBI:.1f} GiB"


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
