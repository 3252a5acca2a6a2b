"""What a power cap does to a step: the clock that a card keeps under it, what that costs the step, and how sure that is.

The model. Switching a CMOS chip takes power in proportion to capacity x voltage^2 x clock (Chandrakasan, Sheng, Brodersen:
Low-Power CMOS Digital Design, IEEE JSSC 27(4), 1992). Voltage follows the clock down to a floor and stays there, so of what
follows the multiprocessors' clock power goes with its cube above the floor and in proportion below. The rest (memory, leakage,
the board) has clocks of its own and stays. A card under a cap takes the highest clock at which both together keep to it.

A stage that multiplies loses in proportion to the clock. One that reads loses less until the clock is too low to keep enough
loads in flight: both take place at once, and the longer hides the other but near the point where they are equal, so their
times add as fourth powers. At the highest clock keeping the loads in flight takes `CLOCKED` of the time that reading takes.

Four numbers stand on cards that others measured under caps (`power_points.py`, which says how far off they are) and agree
with three steps of an H200 whose clock its 700 W hold down. Knows places, never models. Open `clock_at`, then `slowdown`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from redline.errors import ConfigError
from redline.plan.efficiency import at
from redline.plan.place import Place

STILL = 0.29  # of a card's limit: what does not follow the clock of its multiprocessors
VOLTAGE_FLOOR = 0.7  # of the voltage at the highest clock, reached at that share of it
CLOCKED = 0.8
SHARPNESS = 4
LEAST_CLOCK = 0.15  # of the highest: cards go no lower while they work
LEAST_SHARE = 0.4  # of the limit: nothing that was measured lies below
CURVE = "curve"  # in place of watts, the caps from the lowest that is planned to the limit: `trade_off.py`

# Shares of the limit, and the bar either way of the time under such a cap. Of the published points nine of ten lie within; the
# numbers were fitted to them, so bars are twice what was found where points are few.
_BARS = ((0.3, 0.4), (0.4, 0.3), (0.5, 0.2), (0.6, 0.14), (0.7, 0.1), (0.8, 0.06), (0.9, 0.03), (1.0, 0.0))


def clock_at(cap_w: float, demand_w: float, full_w: float) -> float:
    """The clock that a card of `full_w` keeps under a cap, as a share of its highest, in steps that would take `demand_w` there."""
    if demand_w <= cap_w:
        return 1.0
    still = min(STILL * full_w, 0.9 * demand_w)
    share = max(0.0, cap_w - still) / (demand_w - still)
    floor = VOLTAGE_FLOOR**3
    clock = share ** (1 / 3) if share >= floor else share / VOLTAGE_FLOOR**2
    return max(LEAST_CLOCK, clock)


def demand_w(cap_w: float, clock: float, full_w: float) -> float:
    """What a step would take at the highest clock that takes `cap_w` at `clock`: `clock_at` turned round."""
    still = STILL * full_w
    return still + (cap_w - still) / (clock * max(VOLTAGE_FLOOR, clock) ** 2)


def slowdown(clock: float, base: float, ratio: float) -> float:
    """How many times longer a stage takes at `clock` than at `base`, both shares of the highest.

    `ratio` is the stage's time of multiplying over that of reading, at `base`.
    """
    if math.isinf(ratio):
        return base / clock
    held = max(CLOCKED / base, ratio)
    return float(((1 + (held * base / clock) ** SHARPNESS) / (1 + held**SHARPNESS)) ** (1 / SHARPNESS))


def doubt(share: float) -> float:
    """The bar of a time under a cap of that share of the limit."""
    if share <= _BARS[0][0]:
        return _BARS[0][1]
    for (x0, y0), (x1, y1) in zip(_BARS, _BARS[1:], strict=False):
        if share <= x1:
            return y0 + (y1 - y0) * (share - x0) / (x1 - x0)
    return 0.0


@dataclass(frozen=True)
class Grip:
    """What the limit in force, or a cap below it, does to steps of so many rows on one chip of a place.

    `watts` is what they take, `clock` and `base` are shares of the highest clock: now, and when the place's rates were taken.
    `doubt` is the bar that the cap adds.
    """

    watts: float
    clock: float
    base: float
    doubt: float


def grip(place: Place, rows: int) -> Grip | None:
    """None where the power of the place is not known."""
    shares, limit = place.efficiency.watts, place.power_w
    if shares is None or limit is None:
        return None
    full = place.power_full_w or limit
    wanted = at(shares, rows) * full
    force = limit if place.cap_w is None else min(place.cap_w, limit)
    base_w = limit if place.measured else full
    base = clock_at(base_w, wanted, full)
    clock = min(base, clock_at(force, wanted, full))
    return Grip(min(wanted, force), clock, base, doubt(force / base_w) if clock < base else 0.0)


def no_power(place: Place) -> str | None:
    """Why nothing is forecast of a place's energy; None: it is."""
    if place.power_w is None:
        return f"the power of {place.name} is not known"
    return None if place.efficiency.watts else f"nobody measured the power of {place.efficiency.name}"


def no_cap(place: Place) -> str | None:
    """Why no cap can be planned; None: one can."""
    if place.unified:
        return f"{place.chip} shares its power with its processor, and no limit is set for it alone"
    return no_power(place)


def least_w(place: Place) -> tuple[float, str]:
    """The lowest cap that is planned, and whose bound that is. Only of places whose power is known."""
    own, full = place.power_least_w, place.power_full_w or place.power_w
    assert full is not None
    backed = math.ceil(LEAST_SHARE * full)
    if own is not None and own >= backed:
        return own, f"{place.chip} takes no lower limit"
    known = "" if own is None else f" ({place.chip} itself goes down to {own:g} W)"
    return backed, f"no card was measured below {LEAST_SHARE:g} of its limit, so no forecast has a ground there{known}"


def read(text: str) -> float:
    """The watts of `--power-cap 450` or `450W`. Raises ConfigError."""
    try:
        watts = float(text.strip().removesuffix("W").removesuffix("w"))
    except ValueError:
        watts = -1.0
    if not 0 < watts < math.inf:
        raise ConfigError(f"{text!r} is no power cap", hint="write watts, as 450, or curve", param="power_cap")
    return watts


def check(place: Place, cap_w: float) -> None:
    """Raise ConfigError for a cap that cannot be set, or of which nothing is known."""
    reason = no_cap(place)
    if reason is not None:
        raise ConfigError(f"no cap can be planned: {reason}", param="power_cap")
    least, why = least_w(place)
    if cap_w < least:
        raise ConfigError(
            f"a cap of {cap_w:g} W is below {least:g} W: {why}", hint=f"plan {least:g} W or more", param="power_cap"
        )
