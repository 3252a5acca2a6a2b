"""Figures are shown in the unit that gives a short number; what is missing has its reason once."""

from __future__ import annotations

import pytest

from redline.cli.survey_page import rows, value
from redline.hardware.survey import Figure, Survey, Unit


@pytest.mark.parametrize(
    ("number", "unit", "words"),
    [
        (4.59e12, "bytes/s", "4,590 GB/s"),
        (3.1e7, "bytes/s", "31.00 MB/s"),
        (10.0, "bytes/s", "0.00 MB/s"),
        (766.4e12, "FLOP/s", "766.4 TFLOP/s"),
        (9.9e10, "FLOP/s", "99.00 GFLOP/s"),
        (2.5e-6, "s", "2.50 us"),
        (1.02e-9, "s", "0.00 us"),
        (7.25e-3, "s", "7.25 ms"),
    ],
)
def test_units(number: float, unit: Unit, words: str) -> None:
    assert value(Figure("x", unit, number)) == words


def test_reasons_are_said_once_and_noise_is_named() -> None:
    figures = (
        Figure("copy", "bytes/s", 4e12, 0.4, 5, "bytes read and written", 4.8e12),
        *(Figure(name, "s", None, reason="no GPU") for name in ("graph launch", "graph node")),
    )
    page = [text for _, text in rows(Survey("cuda:0", "a card", figures, "2026-11-22", 3.21, "it is busy"))]
    assert page[0] == "cuda:0, in 3.2 s (2026-11-22), shares are of its data sheet; it is busy"
    assert page[1].split() == "copy 4,000 GB/s 83% bytes read and written; repeats 40% apart".split()
    assert page[2].strip() == "not measured: graph launch, graph node: no GPU" and len(page) == 3
