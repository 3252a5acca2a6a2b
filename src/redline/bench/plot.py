"""Draws a benchmark's document as a PNG, with matplotlib where it is installed (`redline[plot]`).

One picture a kind: measured beside limit for decode, throughput and prefill, shares of the ceiling for kernels, percentiles
over the load for serve, stages for start. Open `draw` first.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from redline.bench.report import Document, Row
from redline.errors import ConfigError

GREY, RED, BLUE = "#b5b5b5", "#c8102e", "#1f5fa8"
_WIDTH, _HEIGHT, _DPI = 9.0, 4.8, 130


def require() -> None:
    """Raise ConfigError, before anything is measured, where nothing here can draw."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("--plot needs matplotlib", hint="pip install '.[plot]' in redline's folder", param="plot")


def draw(document: Document, path: Path) -> None:
    """Draw `document` into the PNG `path`. Raises ConfigError where it cannot be written."""
    require()
    from matplotlib.figure import Figure  # no pyplot: it would look for a display

    figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    _PICTURES[document["bench"]](axes, document["rows"])
    axes.set_title(f"{document['bench']} of {document['model']} on {document['device']}, {document['dtype']}", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise ConfigError(f"the plot could not be written to {path}: {error.strerror}", param="plot") from error


def _decode(axes: Any, rows: Sequence[Row]) -> None:
    _beside_limit(axes, rows, [f"batch {row['batch']}\nprompt {row['prompt']}" for row in rows], "step_ms", "ms per step")


def _prefill(axes: Any, rows: Sequence[Row]) -> None:
    _beside_limit(axes, rows, [f"{row['batch']} x {row['prompt']}" for row in rows], "ms", "ms to the first token")
    axes.set_yscale("log")


def _throughput(axes: Any, rows: Sequence[Row]) -> None:
    labels = [f"{row['requests']} requests\n{row['prompt']} in, {row['output']} out" for row in rows]
    axes.bar(range(len(rows)), [row["limit_tokens_per_s"] or 0 for row in rows], 0.6, color=GREY, label="limit")
    axes.bar(range(len(rows)), [row["output_tokens_per_s"] for row in rows], 0.4, color=RED, label="reached")
    axes.set_xticks(range(len(rows)), labels)
    axes.set_ylabel("output tokens/s")
    axes.legend(frameon=False)


def _beside_limit(axes: Any, rows: Sequence[Row], labels: Sequence[str], key: str, unit: str) -> None:
    """Measured bars with the limit inside them, and the ratio above."""
    places = range(len(rows))
    axes.bar(places, [row[key] for row in rows], 0.6, color=RED, label="measured")
    axes.bar(places, [row["limit_ms"] or 0 for row in rows], 0.6, color=GREY, label="limit")
    for place, row in zip(places, rows, strict=True):
        if row["ratio"] is not None:
            axes.annotate(f"{row['ratio']:.2f}", (place, row[key]), ha="center", va="bottom")
    axes.set_xticks(places, labels)
    axes.set_ylabel(unit)
    axes.legend(frameon=False)


def _kernels(axes: Any, rows: Sequence[Row]) -> None:
    timed = [row for row in rows if row["ratio"] is not None][::-1]
    axes.figure.set_figheight(max(_HEIGHT, 1.2 + 0.24 * len(timed)))
    axes.barh(range(len(timed)), [row["ratio"] for row in timed], color=RED)
    axes.set_yticks(range(len(timed)), [f"{row['op']} {row['size']}" for row in timed], fontsize=7)
    axes.axvline(1.0, color=GREY)
    axes.set_xlabel("share of the ceiling")


def _serve(axes: Any, rows: Sequence[Row]) -> None:
    loaded = [row for row in rows if row["rate"] is not None]
    rates = [row["rate"] for row in loaded]
    for key, colour, name in (("ttft_ms", RED, "time to first token"), ("itl_ms", BLUE, "between tokens")):
        for rank, style in (("p50", "-"), ("p99", "--")):
            axes.plot(rates, [row[key][rank] for row in loaded], style, marker="o", color=colour, label=f"{name}, {rank}")
    axes.set_yscale("log")
    axes.set_xlabel("requests offered per second")
    axes.set_ylabel("ms")
    axes.legend(frameon=False)


def _start(axes: Any, rows: Sequence[Row]) -> None:
    names = list(dict.fromkeys(stage for row in rows for stage in row["stages"]))
    lefts = [0.0] * len(rows)
    for name in names:
        widths = [row["stages"].get(name) or 0.0 for row in rows]
        axes.barh(range(len(rows)), widths, left=lefts, label=name)
        lefts = [left + width for left, width in zip(lefts, widths, strict=True)]
    axes.set_yticks(range(len(rows)), [row["run"] for row in rows])
    axes.set_xlabel("seconds from the start of the process")
    axes.legend(frameon=False, fontsize=8)


_PICTURES: dict[str, Callable[[Any, Sequence[Row]], None]] = {
    "decode": _decode,
    "throughput": _throughput,
    "prefill": _prefill,
    "kernels": _kernels,
    "serve": _serve,
    "start": _start,
}
