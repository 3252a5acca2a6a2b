"""What a benchmark says: one document, a table of its rows, numbers as people read them.

A document is JSON-able: the kind, model, device, ceilings and options, then `rows`, one dict a case; figures are null where they
are unknown, with a sentence in `notes`. Knows nothing of how things are measured. Open `document`, then `table`.
"""

from __future__ import annotations

import dataclasses
import datetime
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redline.hardware.ceilings import Ceilings

Document = dict[str, Any]
Row = dict[str, Any]

UNKNOWN = "–"


@dataclass(frozen=True)
class Voice:
    """Where a benchmark speaks: `tell` results as they come, `hint` how far it is. `progress` gets a start's stages."""

    tell: Callable[[str], None]
    hint: Callable[[str], None]
    progress: Callable[[str, float], None] = lambda stage, percent: None


@dataclass(frozen=True)
class Column:
    """One column of a table: the key of the row, its head, and how a figure is written (a format spec, or "share")."""

    key: str
    head: str
    spec: str = ""

    def cell(self, row: Mapping[str, Any]) -> str:
        value = row.get(self.key)
        if value is None:
            return UNKNOWN
        if self.spec == "share":
            return f"{value:.1%}"
        return f"{value:{self.spec}}"


@dataclass(frozen=True)
class Rates:
    """Ceilings given by hand instead of measured ones: GB/s and TFLOP/s; None leaves what was measured."""

    read_gb_s: float | None = None
    matmul_tflops: float | None = None

    def over(self, known: Ceilings | None, dtype: str) -> Ceilings | None:
        """`known` with the given rates in place of its own."""
        if known is None or (self.read_gb_s is None and self.matmul_tflops is None):
            return known
        read = self.read_gb_s * 1e9 if self.read_gb_s is not None else known.read_bytes_per_s
        given = {} if self.matmul_tflops is None else {dtype: self.matmul_tflops * 1e12}
        return dataclasses.replace(
            known, read_bytes_per_s=read, matmul_flops={**known.matmul_flops, **given}, measured_at="", source="table"
        )


def document(kind: str, model: str, *, about: Mapping[str, Any], options: Mapping[str, Any], rows: Sequence[Row]) -> Document:
    """The document of one run. `about` says on what it ran, `options` what was asked."""
    return {
        "bench": kind,
        "model": model,
        "measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **about,
        "options": dict(options),
        "rows": list(rows),
        "notes": list(dict.fromkeys(note for row in rows for note in row.get("notes", ()))),
    }


def ceilings_of(known: Ceilings | None) -> dict[str, Any] | None:
    """Ceilings in a document: GB/s and TFLOP/s by type, in powers of ten."""
    if known is None:
        return None
    return {
        "name": known.name,
        "read_gb_s": short(known.read_bytes_per_s / 1e9),
        "matmul_tflops": {dtype: short(rate / 1e12) for dtype, rate in known.matmul_flops.items()},
        "source": known.source,
        "measured_at": known.measured_at,
        "spread": short(known.spread),
    }


def ceiling_line(known: Ceilings | None, dtype: str) -> str:
    """The ceilings as a person reads them."""
    if known is None:
        return "ceiling: not measured"
    rate = known.matmul_flops.get(dtype)
    matmul = f", multiplies {dtype} at {rate / 1e12:.1f} TFLOP/s" if rate else ""
    when = f"measured {known.measured_at}" if known.measured_at else "as given"
    return f"ceiling: {known.name} reads {known.read_bytes_per_s / 1e9:.0f} GB/s{matmul} ({when})"


def table(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """The rows under their heads, right-aligned; a column that no row has a figure for is left out."""
    shown = [column for column in columns if any(row.get(column.key) is not None for row in rows)]
    cells = [[column.head for column in shown], *([column.cell(row) for column in shown] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(shown))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    notes = dict.fromkeys(note for row in rows for note in row.get("notes", ()))
    return "\n".join([*lines, *(f"note: {note}" for note in notes)])


def middle(values: Iterable[float | None]) -> float | None:
    """The median of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def spread(values: Sequence[float]) -> float | None:
    """(largest - smallest) / median; None for a single sample."""
    return short((max(values) - min(values)) / statistics.median(values)) if len(values) > 1 else None


def ratio(limit: float | None, reached: float | None) -> float | None:
    """limit / reached: 1 is the machine's limit."""
    return short(limit / reached) if limit is not None and reached else None


def short(value: float | None) -> float | None:
    """Four significant digits: more would be noise."""
    return None if value is None else float(f"{value:.4g}")


def milli(seconds: float | None) -> float | None:
    """Milliseconds, to four digits."""
    return None if seconds is None else short(seconds * 1e3)


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value that `share` (0 to 1) of `values` do not exceed, by the nearest rank; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1e6) * len(ordered) // 10**6) - 1))]
