"""`redline doctor`: what this machine is, what it can do (measured once and kept), what would be chosen, what is wrong.

The findings are `hardware.doctor`'s and the choices `plan.resolve`'s; this file measures and prints. Open `command`.
"""

from __future__ import annotations

import json
from typing import Any

import click

from redline import env
from redline.cli.options import JSON
from redline.cli.progress import Progress
from redline.errors import ConfigError
from redline.hardware.ceilings import Ceilings, identify, load
from redline.hardware.detect import detect
from redline.hardware.doctor import Report, examine
from redline.hardware.machine import Machine
from redline.plan.resolve import choose_device, choose_dtype, choose_sizes

FINDINGS = 3
COLOURS = {"error": "red", "warning": "yellow", "info": None}
_GIBI = 1 << 30


@click.command("doctor")
@click.option("--measure", "again", is_flag=True, help="Measure anew, even what was measured before.")
@click.option("--no-measure", "never", is_flag=True, help="Measure nothing: show what is known.")
@JSON
@click.pass_context
def command(ctx: click.Context, again: bool, never: bool, as_json: bool) -> None:
    """Say what this machine is, what it can do, what would be chosen and what is wrong.

    Read bandwidth and matrix rates are measured on the first run (some seconds for each device) and kept. Exit code 3 where
    something is wrong that keeps redline from working.
    """
    if again and never:
        raise click.UsageError("--measure and --no-measure contradict each other")
    machine = detect(visible=env.visible_gpus())
    report = examine(machine, known_ceilings(machine, again=again, never=never, quiet=as_json))
    choices = chosen(machine)
    click.echo(json.dumps(report.as_dict() | {"choices": choices}, indent=1) if as_json else text(report, choices))
    ctx.exit(FINDINGS if any(severity == "error" for severity, _ in report.pairs) else 0)


def known_ceilings(machine: Machine, *, again: bool, never: bool, quiet: bool) -> dict[str, Ceilings]:
    """Ceilings by device, from the cache; what is missing there is measured, everything where `again`."""
    found: dict[str, Ceilings] = {}
    with Progress(quiet=quiet) as progress:
        for device in ("cpu", *(gpu.device for gpu in machine.gpus)):
            kept = None if again else load(identify(machine, device))
            if kept is None and not never:
                progress(f"measuring {device}")
                try:
                    kept = _measure(machine, device)
                except ConfigError as error:  # the driver is there and torch cannot use it: say so, and go on
                    click.echo(error.sentence(), err=True)
            if kept is not None:
                found[device] = kept
    return found


def _measure(machine: Machine, device: str) -> Ceilings:
    from redline.kernels.probes import measure  # brings torch

    return measure(machine, device)


def chosen(machine: Machine) -> dict[str, dict[str, Any]]:
    """What a model gets here when nothing is said: value and reason by name."""
    device, why_device = choose_device(machine)
    gpu = machine.gpu(device)
    dtype, why_dtype = choose_dtype(machine, gpu)
    sizes = choose_sizes(gpu)
    return {
        "device": {"value": device, "why": why_device},
        "dtype": {"value": dtype, "why": why_dtype},
        "max_num_seqs": {"value": sizes.max_num_seqs, "why": sizes.why},
        "max_num_batched_tokens": {"value": sizes.max_num_batched_tokens, "why": sizes.why},
    }


def text(report: Report, choices: dict[str, dict[str, Any]]) -> str:
    """The report as a person reads it."""
    machine = report.machine
    vectors = f", {' '.join(machine.cpu.vectors)}" if machine.cpu.vectors else ""
    rows = [
        ("processor", f"{machine.cpu.model}, {machine.cpu.cores} cores{vectors}"),
        ("memory", f"{machine.memory_bytes / _GIBI:.1f} GiB, {machine.available_bytes / _GIBI:.1f} GiB available"),
    ]
    for gpu in machine.gpus:
        capability = "{}.{}".format(*gpu.capability)
        free = f"{gpu.free_bytes / _GIBI:.1f} of {gpu.memory_bytes / _GIBI:.1f} GiB free"
        rows.append((gpu.device, f"{gpu.name}, capability {capability}, {free}, driver {gpu.driver}"))
    rows += [("can do", f"{device}: {_rates(ceilings)}") for device, ceilings in report.ceilings.items()]
    rows += [("would take", f"{name.replace('_', '-')} {choice['value']}: {choice['why']}") for name, choice in choices.items()]
    lines = [f"{name:<11} {value}" for name, value in rows]
    lines += [click.style(f"{severity:<11} {sentence}", fg=COLOURS[severity]) for severity, sentence in report.pairs]
    return "\n".join(lines)


def _rates(ceilings: Ceilings) -> str:
    rates = [f"reads {ceilings.read_bytes_per_s / 1e9:.1f} GB/s"]
    rates += [f"{dtype} {rate / 1e12:.2f} TFLOP/s" for dtype, rate in ceilings.matmul_flops.items()]
    when = f"measured {ceilings.measured_at}" if ceilings.source == "measured" else "by its data sheet"
    return f"{', '.join(rates)} ({when})"
