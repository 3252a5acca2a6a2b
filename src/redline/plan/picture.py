"""The roofline as a picture, with the stages of a model's steps on it. Needs matplotlib, which is imported when it is drawn.

Across is how many operations a stage does with a byte, up is how many it does in a second; no point lies above the roof.
Open `draw`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from redline.errors import ConfigError
from redline.plan.predict import Part, Predictor, Step
from redline.plan.search import Candidate

GREY, RED, BLUE = "#8a8a8a", "#c8102e", "#1f5fa8"
_LABELS = 8  # places for a label in a decade
_WIDTH, _HEIGHT, _DPI = 9.0, 5.4, 130
FORMATS = (".png", ".svg")


def check(path: Path) -> None:
    """Raise ConfigError for a file that is neither PNG nor SVG."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"--plot draws {' or '.join(FORMATS)}, not {path.name}", param="plot")


def draw(model: str, shown: Candidate, path: Path, power: Mapping[str, Any] | None = None) -> None:
    """Draw the roofline of `shown` with its decode step and a prompt's step. Raises ConfigError where it cannot be written.

    `power` is the document's `power_cap`: a curve in it is drawn beside the roofline.
    """
    from matplotlib.figure import Figure  # no pyplot: it would look for a display

    predictor, load = shown.predictor, shown.load
    rows = power["curve"] if power else None
    figure = Figure(figsize=(_WIDTH * (1.7 if rows else 1), _HEIGHT), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot(1, 2 if rows else 1, 1)
    decode = predictor.decode(load.users, load.context)
    prompt = predictor.step([(0, min(load.prompt, predictor.tokens))])
    points = [*_points(decode), *_points(prompt)]
    _roof(axes, predictor, points)
    _place(axes, decode, RED, f"decode, {load.users} at {load.context} tokens", "o")
    _place(axes, prompt, BLUE, f"prompt, {prompt.tokens} tokens", "s")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations per byte")
    axes.set_ylabel("FLOP/s of one chip")
    axes.set_title(f"{model} on {predictor.place.name}, {predictor.weights.name}, {predictor.layout}", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right", fontsize=8)
    if rows and power:
        _power(figure.add_subplot(1, 2, 2), rows, power["best_w"])
    try:
        figure.savefig(path, format=path.suffix.lower()[1:])
    except OSError as error:
        raise ConfigError(f"the plot could not be written to {path}: {error.strerror}", param="plot") from error


def _power(axes: Any, rows: Sequence[Mapping[str, Any]], best_w: float | None) -> None:
    """Tokens per second and per joule over the cap, each with its bar."""
    caps = [row["cap_w"] for row in rows]
    _band(axes, caps, [row["tokens_per_s"] for row in rows], BLUE)
    axes.set_ylabel("tokens/s", color=BLUE)
    if all(row["joules_per_token"] for row in rows):
        other = axes.twinx()
        joules = [row["joules_per_token"] for row in rows]
        _band(
            other, caps, [{"value": 1 / each["value"], "low": 1 / each["high"], "high": 1 / each["low"]} for each in joules], RED
        )
        other.set_ylabel("tokens per joule", color=RED)
        other.set_ylim(bottom=0)
        other.spines["top"].set_visible(False)
    if best_w is not None:
        axes.axvline(best_w, color=GREY, linewidth=1.2)
        axes.annotate(f"{best_w:g} W", (best_w, 0), xytext=(4, 6), textcoords="offset points", fontsize=8, color=GREY)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("power limit of a card, W")
    axes.set_title("under a power cap", loc="left")
    axes.spines["top"].set_visible(False)


def _band(axes: Any, xs: Sequence[float], estimates: Sequence[Mapping[str, float]], colour: str) -> None:
    axes.plot(xs, [each["value"] for each in estimates], "o-", color=colour, markersize=4)
    axes.fill_between(xs, [each["low"] for each in estimates], [each["high"] for each in estimates], color=colour, alpha=0.15)


def _points(step: Step) -> list[tuple[float, float, Part]]:
    """(operations per byte, operations per second, stage) of the stages that multiply."""
    return [(part.flops / part.bytes, part.flops / part.seconds, part) for part in step.parts if part.flops and part.bytes]


def _roof(axes: Any, predictor: Predictor, points: Iterable[tuple[float, float, Part]]) -> None:
    ceilings = predictor.place.ceilings
    across = [each[0] for each in points]
    low, high = min(across) / 3, max(across) * 3
    for dtype in dict.fromkeys((predictor.place.dtype, predictor.weights.multiplies)):
        rate = ceilings.matmul_flops.get(dtype) if dtype else None
        if rate is None:
            continue
        knee = rate / ceilings.read_bytes_per_s
        xs = [low, knee, max(high, knee * 3)]
        ys = [low * ceilings.read_bytes_per_s, rate, rate]
        axes.plot(xs, ys, color=GREY, linewidth=1.2)
        axes.annotate(f"{dtype}: {rate / 1e12:.3g} TFLOP/s", (xs[-1], rate), ha="right", va="bottom", fontsize=8, color=GREY)
    read = f"{ceilings.read_bytes_per_s / 1e9:,.0f} GB/s"
    axes.annotate(read, (low, low * ceilings.read_bytes_per_s), rotation=35, va="bottom", fontsize=8, color=GREY)


def _place(axes: Any, step: Step, colour: str, label: str, marker: str) -> None:
    points = _points(step)
    axes.plot([x for x, _, _ in points], [y for _, y, _ in points], marker, color=colour, label=label, markersize=5)
    names: dict[tuple[int, int], list[str]] = {}  # stages that lie in one place share a label
    places: dict[tuple[int, int], tuple[float, float]] = {}
    for x, y, part in points:
        where = round(math.log10(x) * _LABELS), round(math.log10(y) * _LABELS)
        names.setdefault(where, []).append(part.name)
        places.setdefault(where, (x, y))
    for where, found in names.items():
        style = {"textcoords": "offset points", "xytext": (6, -9), "fontsize": 7, "color": colour}
        axes.annotate(", ".join(found), places[where], **style)
