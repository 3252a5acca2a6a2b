"""What a plan gives under power caps: one cap, or the curve from the lowest that is planned to the limit. Open `told`, then `curve`.

Nothing here sets a limit: it says what somebody would type who does.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from redline.plan.goal import Goal
from redline.plan.place import Place
from redline.plan.power_cap import doubt, grip, least_w, no_cap
from redline.plan.power_points import summary
from redline.plan.predict import Estimate, Predictor, short
from redline.plan.search import Candidate

_STEPS = (1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0)
_MOST_POINTS = 10


@dataclass(frozen=True)
class Point:
    """One cap: what the layout does under it, the mean watts of a chip, and whether it meets the goal."""

    cap_w: float
    candidate: Candidate
    watts: Estimate | None
    meets: bool


def under(place: Place, cap_w: float) -> Place:
    """The place under a cap; one that is not below its limit changes nothing."""
    return place if place.power_w is None or cap_w >= place.power_w else dataclasses.replace(place, cap_w=cap_w)


def capped(shown: Candidate, cap_w: float) -> Candidate:
    """The same layout under a cap."""
    made = shown.predictor
    place = under(made.place, cap_w)
    predictor = Predictor(made.shape, place, made.weights, made.kv, made.layout, tokens=made.tokens)
    return dataclasses.replace(shown, predictor=predictor)


def caps(place: Place) -> tuple[float, ...]:
    """Some ten round numbers of watts from the lowest cap that is planned to the limit in force."""
    assert place.power_w is not None
    least, most = min(least_w(place)[0], place.power_w), place.power_w
    step = next((step for step in _STEPS if (most - least) / step <= _MOST_POINTS), _STEPS[-1])
    first = math.floor(least / step) + 1
    between = [step * number for number in range(first, math.ceil(most / step))]
    return tuple(dict.fromkeys((least, *between, most)))


def curve(shown: Candidate, goal: Goal) -> list[Point]:
    """The layout under every cap, lowest first. Only of places whose power is known."""
    found = []
    for cap in caps(shown.predictor.place):
        each = capped(shown, cap)
        watts = None if each.draft else each.predictor.mean_watts(each.load)
        found.append(Point(cap, each, watts, not each.misses(goal)))
    return found


def best(points: list[Point]) -> Point | None:
    """Most tokens per joule among the caps that meet the goal; None: none does, or joules are not known."""
    known = [(joules.value, point) for point in points if point.meets and (joules := point.candidate.joules) is not None]
    return min(known, key=lambda pair: pair[0])[1] if known else None


def told(shown: Candidate | None, place: Place, goal: Goal, asked: float | str) -> dict[str, Any]:
    """The `power_cap` of a plan's document. `asked` is a cap that `power_cap.check` let pass, or `curve`."""
    reason = no_cap(place)
    if reason is not None:
        return _document(place, reason=reason)
    least, why = least_w(place)
    found = _document(place, least_w=least, least_reason=why, model=summary())
    if isinstance(asked, float):
        lower = place.power_w is not None and asked < place.power_w
        found |= {"cap_w": asked, "command": _command(asked) if lower else None, "holds": _holds(shown, place, asked)}
    if shown is None:
        return found | {"reason": "no layout fits, so there is none to cap"}
    if isinstance(asked, str):
        points = curve(shown, goal)
        chosen = best(points)
        found |= {"curve": [_row(point) for point in points], "best_w": chosen.cap_w if chosen else None}
        if chosen is not None:
            found["command"] = _command(chosen.cap_w)
        elif shown.draft:
            found["reason"] = "nobody measured the power of drafts, so tokens per joule are not known"
        else:
            found["reason"] = "no cap meets the goal"
    return found


def _command(cap_w: float) -> str:
    return f"sudo nvidia-smi --power-limit={cap_w:g}"


def _document(place: Place, **known: Any) -> dict[str, Any]:
    keys = ("cap_w", "least_w", "least_reason", "holds", "command", "curve", "best_w", "model", "reason")
    return {"limit_w": place.power_w, **dict.fromkeys(keys), **known}


def _holds(shown: Candidate | None, place: Place, cap_w: float) -> dict[str, Any] | None:
    """Watts of decode and prompt steps without the cap, and the clocks that it leaves, as shares of those without."""
    if shown is None:
        return None
    found: dict[str, Any] = {}
    for name, rows in (("decode", shown.load.users), ("prompt", min(shown.load.prompt, shown.predictor.tokens))):
        free, held = grip(dataclasses.replace(place, cap_w=None), rows), grip(under(place, cap_w), rows)
        if free is None or held is None:
            return None
        clock = held.clock / free.clock
        found[name] = {"watts": short(free.watts), "clock": short(clock), "slower": clock < 1}
    return found


def _row(point: Point) -> dict[str, Any]:
    each, limit = point.candidate, point.candidate.predictor.place.power_w
    assert limit is not None
    return {
        "cap_w": point.cap_w,
        "bar": short(doubt(point.cap_w / limit)),
        "watts": point.watts.as_dict() if point.watts else None,
        "itl_ms": each.itl.as_dict(1e3),
        "ttft_ms": each.ttft.as_dict(1e3),
        "tokens_per_s": each.tokens_per_s.as_dict(),
        "joules_per_token": each.joules.as_dict() if each.joules else None,
        "meets": point.meets,
    }
