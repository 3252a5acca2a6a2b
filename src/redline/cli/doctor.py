"""`redline doctor`: what this machine is, what it can do (measured once and kept), what would be chosen, what is wrong.

The findings are `hardware.doctor`'s, the choices `plan.resolve`'s and the text `cli.doctor_page`'s; this file measures the
ceilings, and `cli.doctor_survey` the rest. Open `command`.
"""

from __future__ import annotations

import json
from typing import Any

import click

from redline import env
from redline.cli import doctor_survey
from redline.cli.arguments import JSON
from redline.cli.doctor_page import text
from redline.cli.progress import Progress
from redline.errors import ConfigError, InternalError
from redline.hardware.ceilings import Ceilings, identify, load
from redline.hardware.complaints import blocked, unfit
from redline.hardware.detect import detect
from redline.hardware.doctor import examine
from redline.hardware.machine import Machine
from redline.plan.corrections import Corrections, of_device
from redline.plan.resolve import choose_device, choose_dtype, choose_sizes

BROKEN = 2


@click.command("doctor")
@click.option(
    "--measure",
    "again",
    is_flag=True,
    help="Measure everything anew, also what a first run leaves out, and busy or capped cards.",
)
@click.option("--no-measure", "never", is_flag=True, help="Measure nothing: show what is known.")
@JSON
@click.pass_context
def command(ctx: click.Context, again: bool, never: bool, as_json: bool) -> None:
    """Say what this machine is, what it can do, what would be chosen and what is wrong.

    Read bandwidth and matrix rates are measured on the first run (some seconds for each device) and kept; a card that is
    busy, throttled or power-capped is not measured unless --measure says so. --measure adds copies, launches, products by size,
    attention, the disk and the ways between host and GPUs (20 seconds in all, 4 more for each GPU after the second). Exit code 0: all that is here can be used, also
    where warnings say that it could be faster, and where there is no GPU. Exit code 2: something is broken and must be mended
    (a driver, a card, torch's build), or the options contradict each other.
    """
    if again and never:
        raise click.UsageError("--measure and --no-measure contradict each other")
    machine = detect(visible=env.visible_gpus(), models=env.cache_dir())
    if again:
        with doctor_survey.prepared(machine, quiet=as_json) as (group, until):
            ceilings, refused = known_ceilings(machine, again=True, never=False, quiet=as_json)
            surveys = doctor_survey.measured(machine, ceilings, group, until, quiet=as_json)
    else:
        ceilings, refused = known_ceilings(machine, again=False, never=never, quiet=as_json)
        surveys = doctor_survey.kept(machine)
    report = examine(machine, ceilings, refused, surveys)
    choices, learned = chosen(machine), corrections(machine, ceilings)
    if as_json:
        kept = {device: [each.as_dict() for each in found] for device, found in learned.items()}
        click.echo(json.dumps(report.as_dict() | {"choices": choices, "corrections": kept}, indent=1))
    else:
        click.echo(text(report, choices, learned))
    ctx.exit(0 if report.usable else BROKEN)


def known_ceilings(machine: Machine, *, again: bool, never: bool, quiet: bool) -> tuple[dict[str, Ceilings], dict[str, str]]:
    """(ceilings, reasons for not measuring) by device. What the cache lacks is measured, everything where `again`."""
    found: dict[str, Ceilings] = {}
    refused: dict[str, str] = {}
    with Progress(quiet=quiet) as progress:
        for device in ("cpu", *(gpu.device for gpu in machine.gpus)):
            kept = None if again else load(identify(machine, device))
            if kept is None and not never:
                why = _not_now(machine, device, forced=again)
                if why is not None:
                    refused[device] = why
                    continue
                progress(f"measuring {device}")
                try:
                    kept = _measure(machine, device)
                except (ConfigError, InternalError) as error:  # torch cannot use it, or the figures cannot be true
                    refused[device] = error.sentence()
                except RuntimeError as error:  # torch's own: out of memory, a card that stopped answering
                    refused[device] = str(error).partition("\n")[0]
            if kept is not None:
                found[device] = kept
    return found, refused


def corrections(machine: Machine, ceilings: dict[str, Ceilings]) -> dict[str, list[Corrections]]:
    """What steps of models taught here, by device that was measured."""
    found = {device: of_device(identify(machine, device), known) for device, known in ceilings.items()}
    return {device: kept for device, kept in found.items() if kept}


def _not_now(machine: Machine, device: str, *, forced: bool) -> str | None:
    """Why a device is not measured: it cannot be used at all or, unless `forced`, its figures would not be its own."""
    gpu = machine.gpu(device)
    if gpu is None:
        return None
    why = blocked(machine, gpu)
    if why is not None or forced:
        return why
    why = unfit(gpu)
    return None if why is None else f"{why}; redline doctor --measure measures it all the same"


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
