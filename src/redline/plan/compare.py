"""Machines side by side for one model and goal, ranked by speed, joules and, where prices are given, cost. Open `compare`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from redline.errors import ConfigError
from redline.plan.goal import Goal
from redline.plan.place import Place, find_chip, on_chips
from redline.plan.precision import PLANNED
from redline.plan.proof import describe
from redline.plan.search import Answer, Options, search
from redline.shapes import ModelShape

SECONDS = 3600


def compare(
    shape: ModelShape, places: Sequence[Place], goal: Goal, options: Options, prices: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """One row a place, those first that meet the goal, then by tokens per second.

    `prices` are per hour of one chip, by its name in the table. A rank is 1 for the best; null where the figure is not known.
    """
    rows = [_row(place, search(shape, place, goal, options), prices or {}) for place in places]
    for figure, rank, most in (
        ("tokens_per_s", "speed", True),
        ("joules_per_token", "joules", False),
        ("cost_per_million", "cost", False),
    ):
        known = sorted((row[figure] for row in rows if row[figure] is not None), reverse=most)
        for row in rows:
            row[f"rank_{rank}"] = None if row[figure] is None else known.index(row[figure]) + 1
    return sorted(rows, key=lambda row: (not row["feasible"], row["rank_speed"] or math.inf))


def _row(place: Place, answer: Answer, prices: Mapping[str, float]) -> dict[str, Any]:
    shown = answer.shown
    price = prices.get(place.chip)
    rate = shown.tokens_per_s if shown else None
    cost = None if price is None or rate is None else price * place.count / SECONDS / rate.value * 1e6
    return {
        "place": place.name,
        "feasible": answer.best is not None,
        "layout": describe(shown) if shown else None,
        "note": None if shown is None or shown.runs else PLANNED,
        "tokens_per_s": rate.value if rate else None,
        "tokens_per_s_bar": rate.as_dict() if rate else None,
        "itl_ms": shown.itl.value * 1e3 if shown else None,
        "ttft_ms": shown.ttft.value * 1e3 if shown else None,
        "joules_per_token": shown.joules.value if shown and shown.joules else None,
        "cost_per_million": cost,
        "proof": list(answer.proof),
    }


def places(text: str, share: float) -> list[Place]:
    """The machines that `--compare h100,4xl4` names. Raises ConfigError."""
    return [on_chips(each, share) for each in text.split(",") if each.strip()]


def read_prices(document: object) -> dict[str, float]:
    """Prices per hour of one chip, by the table's name, from `{"h100": 2.5, "t4": 0.35}`. Raises ConfigError."""
    if not isinstance(document, Mapping) or not document:
        raise ConfigError('prices are a JSON object of chip and price per hour, as {"h100": 2.5}', param="prices")
    found = {}
    for name, price in document.items():
        if isinstance(price, bool) or not isinstance(price, int | float) or not 0 < price < math.inf:
            raise ConfigError(f"the price of {name} must be a number above 0, not {price!r}", param="prices")
        found[find_chip(str(name)).name] = float(price)
    return found
