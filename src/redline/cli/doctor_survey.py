"""What `redline doctor --measure` measures beyond the ceilings, and what of it is known from before.

Puts together what the rooms below bring: probes of `kernels` and `parallel`, the layers' own product, the cache of `hardware`. Open
`measured`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from redline import env
from redline.cli.progress import Progress
from redline.hardware.ceilings import identify
from redline.hardware.complaints import blocked, disturbed
from redline.hardware.machine import Machine
from redline.hardware.survey import GROUP, Survey, budget_s, identify_group, load, sheet_of, take
from redline.plan.resolve import choose_dtype

if TYPE_CHECKING:
    from redline.parallel.probes import Group

# Seconds that a survey usually takes: what is kept free for those to come.
_CPU_S, _GPU_S, _GROUP_S = 4.5, 4.5, 5.0


def kept(machine: Machine) -> dict[str, Survey]:
    """What was measured before, by device; of all GPUs together under `cuda`."""
    identities = [identify(machine, device) for device in ("cpu", *(gpu.device for gpu in machine.gpus))]
    if len(machine.gpus) > 1:
        identities.append(identify_group(machine))
    found = {identity.device: load(identity) for identity in identities}
    return {device: survey for device, survey in found.items() if survey is not None}


@contextlib.contextmanager
def prepared(machine: Machine, *, quiet: bool) -> Iterator[tuple[Any, float]]:
    """Load what the measurement needs before its time begins: (processes that sum over GPUs or None, when it must end)."""
    with contextlib.ExitStack() as stack:
        with Progress(quiet=quiet) as progress:
            progress("starting torch")
            group = _prepare(machine, stack)
        yield group, time.monotonic() + budget_s(machine)


def measured(machine: Machine, devices: Iterable[str], group: Any, until: float, *, quiet: bool) -> dict[str, Survey]:
    """Survey `devices`, and all GPUs together where there is a `group`, each leaving time for those after it."""
    jobs = [(device, _CPU_S if device == "cpu" else _GPU_S) for device in devices]
    jobs += [(GROUP, _GROUP_S)] if group is not None else []
    found: dict[str, Survey] = {}
    with Progress(quiet=quiet) as progress:
        for number, (device, usual) in enumerate(jobs):
            progress("measuring what GPUs say to each other" if device == GROUP else f"measuring what else {device} does")
            end = _end(time.monotonic(), until, usual, sum(seconds for _, seconds in jobs[number + 1 :]))
            found[device] = _survey_group(machine, group, end) if device == GROUP else _survey(machine, device, end)
    return found


def _end(now: float, until: float, usual: float, later: float) -> float:
    """When a survey must end so that `later` seconds are left for the others; where there are too few, each gets its part."""
    left = max(0.0, until - now)
    return now + max(left - later, left * usual / (usual + later))


def _prepare(machine: Machine, stack: contextlib.ExitStack) -> Group | None:
    """Import torch, have kernels kept between starts, and start the processes of a group of usable GPUs."""
    from redline.kernels import compiled

    compiled.keep(env.cache_dir() / "kernels" / "triton")
    if len(machine.gpus) < 2 or any(blocked(machine, gpu) for gpu in machine.gpus):
        return None
    from redline.parallel.probes import Group

    group = stack.enter_context(Group(len(machine.gpus)))
    group.wait()
    return group


def _survey(machine: Machine, device: str, until: float) -> Survey:
    from redline.kernels.probes import survey
    from redline.layers.linear import linear

    dtype, _ = choose_dtype(machine, machine.gpu(device))
    return survey(machine, device, dtype, until, linear=linear)


def _survey_group(machine: Machine, group: Group, until: float) -> Survey:
    from redline.parallel.probes import probes

    despite = [f"cuda:{gpu.index}: {why}" for gpu in machine.gpus if (why := disturbed(gpu))]
    probed, sheet = list(probes(group)), sheet_of(machine, GROUP)
    return take(identify_group(machine), probed, until, sheet=sheet, despite="; ".join(despite))
