"""One sentence of advice for a request: the lever that would save most of its time, and what that would gain.

Each lever is priced in seconds of this very request; gains are upper bounds, because what one lever saves another may not.
Knows sums of steps and ceilings, nothing of requests' contents. Open `advice`.
"""

from __future__ import annotations

from collections.abc import Mapping

from redline.hardware.power import Reading
from redline.plan.meter import Meter, RequestMeter, Totals

FASTER_THAN_LIMIT = 1.03  # beyond timer noise: the ceiling was measured on a busy machine
NOTHING = 0.05  # of the time: a lever that saves less is not worth a sentence
THROTTLED_BY = {
    "sw_power_cap": "the power limit: raise it if somebody lowered it; else only work that takes fewer joules is faster",
    "hw_power_brake": "the power supply, which brakes the card",
    "sw_thermal": "heat: the card lowers its clocks, so give it air",
    "hw_thermal": "heat: the card lowers its clocks, so give it air",
    "hw_slowdown": "the card's protection, which lowers its clocks: look at its power and cooling",
}


def advice(request: RequestMeter, meter: Meter, queue_s: float, power: Reading | None = None) -> str:
    """The sentence. `power` says what held the device's clocks down while the request ran."""
    if meter.ceilings is None:
        return "The machine was not measured yet: run redline doctor, and receipts will say how far this is from its limit."
    wall = request.prefill.wall_s + request.decode.wall_s
    limit = request.prefill.limit_s + request.decode.limit_s
    if wall <= 0:
        return "This request ended before it ran, so there is nothing to hold against a limit."
    if limit > wall * FASTER_THAN_LIMIT:
        return "This ran faster than the measured limit, so the measurement was disturbed: run redline doctor --measure on a quiet machine."
    total = wall + queue_s
    inside = inside_s(request)
    saved, lever = max(
        (queue_s, "waiting in the queue: raise --max-num-seqs, or share the load with a second server"),
        (
            request.prefill.host_s + request.decode.host_s,
            "the device waiting for the host between steps: fewer, larger steps help",
        ),
        (inside, _inside(request, meter, power)),
        (
            packed_saving_s(request.decode, meter),
            f"the weights' format: in memory they are {meter.dtype}, larger than in the file",
        ),
    )
    if saved > NOTHING * total:
        return f"The largest lever is {lever} (up to {_gain(total, saved)})."
    halved = 0.5 * (request.decode.limit_s - request.decode.kv_limit_s)
    if halved > NOTHING * total:
        return f"This ran within 5 % of the limit: only fewer bytes would make it faster (weights of half the size up to {_gain(total, halved)})."
    return "This ran within 5 % of the limit: only a smaller model or a shorter context would make it faster."


def inside_s(request: RequestMeter) -> float:
    """Device seconds beyond the limit."""
    return max(0.0, request.prefill.seconds + request.decode.seconds - request.prefill.limit_s - request.decode.limit_s)


def packed_saving_s(decode: Totals, meter: Meter) -> float:
    """Seconds that decode steps would have saved at the limit, had they read the file's bytes instead of memory's."""
    floor = meter.file_floor_s
    if floor is None or meter.ceilings is None:
        return 0.0
    return max(0.0, decode.weight_bytes / meter.ceilings.read_bytes_per_s - decode.steps * floor)


def _inside(request: RequestMeter, meter: Meter, power: Reading | None) -> str:
    """What keeps steps above their limit, as far as it is known."""
    causes = [THROTTLED_BY[name] for name in (power.throttled or () if power is not None else ()) if name in THROTTLED_BY]
    if causes:
        return f"inside the steps, and while they ran the clocks were held down by {causes[0]}"
    padding = request.decode.padding_s
    if padding > 0.5 * inside_s(request):
        return "inside the steps, in the empty rows of graphs that were made for more sequences"
    over = meter.over(request.decode)
    if over is not None:
        names = {
            "weights_over": "the layers' kernels and the gaps between them",
            "kv_over": "attention",
            "sampling": "sampling",
            "launches": "the gaps between kernels",
        }
        return f"inside the steps, most of it in {names[max(over, key=lambda name: over[name])]}"
    return "inside the steps, in kernels that stay below the measured rates and in their launches"


def _gain(total: float, saved: float) -> str:
    return f"{total / max(total - saved, 0.01 * total):.1f}x"


LEVERS = {
    "host": ("the device waiting for the host", "fewer, larger steps"),
    "padding": ("empty rows of graphs", "graphs captured for the usual number of sequences"),
    "weights_over": ("the layers' kernels, beyond what their weights take,", "better kernels for these shapes"),
    "kv_over": ("attention, beyond what its cache takes", "better kernels for these contexts"),
    "sampling": ("sampling", "greedy answers, or fewer filters,"),
    "launches": ("gaps between kernels", "fewer kernels"),
    "unattributed": ("the inside of steps, where nothing tells the causes apart,", "kernels at the measured rates"),
}
"""Causes beyond the limit, as `Meter.causes` names them: what they are, and what would help."""


def standing_advice(causes: Mapping[str, Mapping[str, float]]) -> str:
    """One sentence on all steps together, from their seconds by phase and cause (`Meter.causes`)."""
    total = sum(sum(parts.values()) for parts in causes.values())
    if total <= 0:
        return "Nothing has run on a measured machine yet, so there is nothing to hold against a limit."
    saved, phase, cause = max(
        (parts[cause], phase, cause) for phase, parts in causes.items() for cause in parts if cause in LEVERS
    )
    if saved <= NOTHING * total:
        return "Steps run within 5 % of the limit: only fewer bytes (a smaller format or model) would make them faster."
    what, help = LEVERS[cause]
    return f"{saved / total:.0%} of all steps' time goes to {what} in {phase}: {help} would give up to {_gain(total, saved)}."
