"""Cards that others measured under power caps, as data with sources, and what `power_cap.py` makes of them. Open `Series`, then
`errors`.

A point is the cap (or, where cards reported that, the watts they took under it) and the speed reached, in any unit. The first of a series
is the card as it runs uncapped; `clock` is its clock then over the highest that was seen of that card, where its limit already
held it down. Points at which a cap changed nothing are left out, and of the sweeps in steps of 10 W every second or third is here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from redline.plan.power_cap import clock_at, demand_w, doubt, slowdown

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Series:
    """One load on one card, whose default limit is `limit_w`. `multiplies`: compute-bound; otherwise decode, which reads."""

    name: str
    limit_w: float
    multiplies: bool
    points: Points
    source: str
    clock: float = 1.0


_ZEUS = "You, Chung, Chowdhury: Zeus, NSDI 2023, traces, bert_base_uncased (examples/research_reproducibility in ml-energy/zeus)"
_CLUB = "noonghunna/club-3090, docs/img/{}.py: power-cap sweeps, SM clock and watts as medians under load"
_TOWER = (
    "Light-Heart-Labs/MMBT-Messy-Model-Bench-Tests, hardware-tests/{}: RTX PRO 6000 Blackwell, five minutes or three clips a cap"
)

SERIES: tuple[Series, ...] = (
    Series(
        "V100, BERT, batch 32, seconds an epoch",
        250,
        True,
        tuple(
            (watts, 1 / seconds)
            for watts, seconds in (
                (228.2, 1733.3),
                (212.6, 1776.3),
                (191.2, 1843.1),
                (170.6, 1939.2),
                (146.4, 2221.2),
                (121.8, 2734.5),
                (99.5, 3583.4),
            )
        ),
        _ZEUS,
    ),
    Series(
        "A40, BERT, batch 32, seconds an epoch",
        300,
        True,
        tuple(
            (watts, 1 / seconds)
            for watts, seconds in (
                (267.0, 909.5),
                (251.2, 913.3),
                (232.1, 934.9),
                (210.0, 967.4),
                (188.6, 1028.1),
                (167.1, 1156.8),
                (145.4, 1586.2),
                (122.9, 2381.7),
            )
        ),
        _ZEUS,
    ),
    Series(
        "A100, LLaMA 65B, time over that at 250 W",
        250,
        False,
        ((250, 1.0), (175, 1 / 1.067), (150, 1 / 1.195)),
        "Samsi and others: From Words to Watts, HPEC 2023, the paragraph on power capping (6.7 and 19.5 % longer)",
    ),
    Series(
        "RTX 3090, prompts of a 27B, tokens/s",
        350,
        True,
        (
            (381.2, 1104.8),
            (355.0, 1080.7),
            (327.0, 1050.5),
            (309.3, 1028.6),
            (279.3, 982.5),
            (259.2, 934.6),
            (239.6, 855.8),
            (219.6, 732.6),
            (199.7, 606.1),
            (189.7, 542.0),
        ),
        _CLUB.format("power-cap-3090-prefill"),
        clock=0.884,
    ),
    Series(
        "RTX 3090, one sequence, 35B-A3B, tokens/s",
        350,
        False,
        (
            (385.8, 137.7),
            (348.7, 136.6),
            (318.9, 134.9),
            (299.0, 133.3),
            (279.3, 131.5),
            (259.6, 128.5),
            (239.6, 124.8),
            (219.7, 119.5),
            (209.7, 114.6),
            (199.7, 104.1),
            (189.7, 92.2),
        ),
        _CLUB.format("power-cap-3090-a3b-decode"),
    ),
    Series(
        "RTX 4090, one sequence, 27B, tokens/s",
        450,
        False,
        (
            (393.0, 51.96),
            (369.4, 51.66),
            (339.5, 51.26),
            (309.6, 50.46),
            (279.7, 49.36),
            (259.9, 48.26),
            (249.8, 46.37),
            (240.2, 43.47),
            (229.7, 41.47),
        ),
        _CLUB.format("power-cap-4090-qwen36"),
    ),
    Series(
        "RTX PRO 6000, one sequence, 27B, tokens/s",
        600,
        False,
        ((516, 72.1), (497.0, 72.1), (447.8, 72.0), (398.1, 71.3), (348.4, 68.6), (298.7, 62.6)),
        _TOWER.format("vllm-power-sweep-2026-04-29"),
    ),
    Series(
        "RTX PRO 6000, 32 sequences, 27B, tokens/s",
        600,
        False,
        # At 600 W without the minute that its authors found disturbed.
        ((573.0, 1386.7), (497.5, 1336.5), (447.7, 1382.1), (398.5, 1320.2), (348.3, 1201.5), (298.7, 1033.5)),
        _TOWER.format("vllm-power-sweep-2026-04-29"),
    ),
    Series(
        "RTX PRO 6000, one sequence, Qwen3-Coder-Next, tokens/s",
        600,
        False,
        ((489.0, 163.2), (447.3, 163.1), (397.7, 161.8), (348.3, 159.0), (298.6, 148.4)),
        _TOWER.format("vllm-power-sweep-2026-04-29"),
    ),
    Series(
        "RTX PRO 6000, 32 sequences, Qwen3-Coder-Next, tokens/s",
        600,
        False,
        ((546.1, 2472.8), (497.2, 2458.3), (447.7, 2430.8), (398.0, 2370.8), (348.4, 2227.9), (298.7, 2011.2)),
        _TOWER.format("vllm-power-sweep-2026-04-29"),
    ),
    Series(
        "RTX PRO 6000, video diffusion, clips/s",
        600,
        True,
        tuple(
            (watts, 1 / seconds)
            for watts, seconds in ((542, 36.81), (464, 41.35), (421, 43.69), (371, 46.63), (326, 51.61), (302, 55.11))
        ),
        _TOWER.format("ltx23-power-sweep-2026-05-05"),
        clock=0.97,
    ),
)

# One H200, limit 700 W, Qwen3-8B in a graph: rows, clock when steady over 1,980 MHz, milliseconds then and in a burst at full
# clock, time of multiplying over that of reading. docs/log.md, "From 32 rows on"; bench/results/2026-11-21.jsonl. The burst of
# 128 rows was on another card than the steady run.
H200_STEPS: tuple[tuple[int, float, float, float, float], ...] = (
    (32, 1905 / 1980, 4.820, 4.760, 0.25),
    (64, 1815 / 1980, 6.068, 5.934, 0.45),
    (128, 1620 / 1980, 8.553, 7.840, 0.77),
)


@dataclass(frozen=True)
class Error:
    """A published point: its cap as a share of the limit, how far the model's time lies off as a share, and the bar there."""

    series: str
    share: float
    off: float
    bar: float


def errors(series: tuple[Series, ...] = SERIES) -> list[Error]:
    """The model against every point but the first of each series."""
    found = []
    for each in series:
        (first_w, first), *rest = each.points
        wanted = demand_w(first_w, each.clock, each.limit_w) if each.clock < 1 else first_w
        ratio = math.inf if each.multiplies else 0.0
        for watts, speed in rest:
            clock = min(each.clock, clock_at(watts, wanted, each.limit_w))
            off = slowdown(clock, each.clock, ratio) / (first / speed) - 1
            found.append(Error(each.name, watts / each.limit_w, off, doubt(watts / each.limit_w)))
    return found


def summary() -> str:
    """What stands behind a bar, in one phrase."""
    off = sorted(abs(each.off) for each in errors())
    half, most = off[len(off) // 2], off[int(0.9 * len(off))]
    cards = len({each.name.split(",")[0] for each in SERIES})
    return f"{len(off)} published points of {cards} cards under caps, half within {half:.1%}, nine of ten within {most:.1%}"
