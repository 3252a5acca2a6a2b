"""Draws a report with matplotlib, where it is installed: measures side by side, reliability, risk over coverage. Open `draw`."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from saidata.errors import Misuse
from saidata.evaluate.report import Report

COLOURS = {"saidata": "#c8102e", "index": "#1f5fa8", "free": "#b5b5b5"}
MORE_COLOURS = ("#2e7d32", "#e08e0b", "#6a4c93", "#00838f", "#795548")  # of models alone and of other runs, in turn
LONG_TITLE = 40  # from which on the legend has a line for each
SHOWN = (
    *("schema_valid", "precision", "recall", "main_package", "licence_recall", "licence_accuracy", "abstention"),
    *("completeness", "consistency"),
)


def require() -> None:
    """Raise Misuse, before anything is measured, where nothing here can draw."""
    if importlib.util.find_spec("matplotlib") is None:
        raise Misuse("pictures need matplotlib", "pip install '.[plot]' in redline's folder, or leave --pictures out")


def draw(found: Report, folder: Path) -> list[str]:
    """Write the pictures that the report has figures for into `folder`; their file names."""
    require()
    from matplotlib.figure import Figure  # no pyplot: it would look for a display

    pictures: dict[str, Callable[[Any, Report], None]] = {"measures.png": _measures}
    if found.reliability is not None:
        pictures |= {"reliability.png": _reliability, "risk.png": _risk}
    for name, paint in pictures.items():
        figure = Figure(
            figsize=(9.0, 4.2 + 0.3 * len(found.variants)) if name == "measures.png" else (5.4, 4.4),
            dpi=120,
            layout="constrained",
        )
        axes = figure.subplots()
        paint(axes, found)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(folder / name, format="png", metadata={"Software": None})
    return list(pictures)


def _measures(axes: Any, found: Report) -> None:
    height = 0.8 / len(found.variants)
    titles = [part.title for part in found.variants.values()]
    more = itertools.cycle(MORE_COLOURS)
    colours = {variant: COLOURS.get(variant) or next(more) for variant in found.variants}
    for place, (variant, part) in enumerate(found.variants.items()):
        for row, name in enumerate(SHOWN):
            value = part.measures.get(name)
            if value is None:
                continue
            label = part.title if row == 0 else None
            error = [[value.value - value.low], [value.high - value.value]]
            axes.barh(
                row + place * height, value.value, height * 0.9, color=colours[variant], label=label, xerr=error, ecolor="#333333"
            )
    axes.set_yticks([row + 0.4 - height / 2 for row in range(len(SHOWN))], [name.replace("_", " ") for name in SHOWN])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.02)
    axes.set_title(f"{found.settings.model}, 95 % intervals", loc="left")
    axes.legend(
        frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=3 if max(map(len, titles)) < LONG_TITLE else 1
    )


def _reliability(axes: Any, found: Report) -> None:
    assert found.reliability is not None
    bins = found.reliability.bins
    axes.plot([0, 1], [0, 1], color="#b5b5b5", linewidth=1)
    axes.scatter([b[0] for b in bins], [b[1] for b in bins], s=[20 + min(180, b[2]) for b in bins], color="#c8102e")
    axes.set_xlabel("confidence")
    axes.set_ylabel("share that is right")
    axes.set_title(f"reliability error {found.reliability.error:.4f}", loc="left")


def _risk(axes: Any, found: Report) -> None:
    assert found.reliability is not None
    curve = found.reliability.curve
    axes.step([0.0, *(c for c, _ in curve)], [curve[0][1], *(r for _, r in curve)], where="pre", color="#1f5fa8")
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("coverage: the surest share of the values")
    axes.set_ylabel("risk: share that is wrong")
    axes.set_title("risk over coverage", loc="left")
