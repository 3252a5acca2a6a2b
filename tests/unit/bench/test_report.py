"""Tables, ranks and ratios as people read them."""

from __future__ import annotations

import pytest

from redline.bench import report
from redline.bench.report import Column


def test_a_table_leaves_out_what_is_unknown_everywhere() -> None:
    columns = (Column("a", "a"), Column("b", "b", ".2f"), Column("c", "c", "share"), Column("d", "d"))
    rows = [{"a": 1, "b": None, "c": 0.5, "d": None}, {"a": 10, "b": 2.0, "c": 0.123, "notes": ["slow"]}]
    assert report.table(rows, columns).splitlines() == [
        " a     b      c",
        " 1     –  50.0%",
        "10  2.00  12.3%",
        "note: slow",
    ]


def test_percentiles_are_values_that_were_seen() -> None:
    values = [float(i) for i in range(1, 101)]
    assert [report.percentile(values, share) for share in (0.5, 0.99, 1.0, 0.0)] == [50.0, 99.0, 100.0, 1.0]
    assert report.percentile([7.0], 0.99) == 7.0
    assert report.percentile([], 0.5) is None


def test_figures_that_are_unknown_stay_unknown() -> None:
    assert report.middle([None, 3.0, 1.0, 2.0]) == 2.0
    assert report.middle([None]) is None
    assert report.spread([2.0]) is None
    assert report.spread([2.0, 3.0, 4.0]) == pytest.approx(0.667, abs=1e-3)
    assert report.ratio(None, 1.0) is None
    assert report.ratio(1.0, 4.0) == 0.25
    assert report.milli(None) is None
