"""Forecasts against the steps that their curves were made from, which guards against change and proves no forecast; and the fit."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

TOP = Path(__file__).parents[3]
RESULTS = TOP / "bench/results"


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    sys.path.insert(0, str(TOP / "bench"))
    try:
        import prediction

        yield prediction
    finally:
        sys.path.remove(str(TOP / "bench"))


@pytest.mark.parametrize(
    ("name", "least", "median"),
    [
        ("2026-11-22.jsonl", 22, 0.08),
        ("2026-11-22-h200-night-points.jsonl", 65, 0.05),
        ("2026-11-22-h200-night-other-points.jsonl", 47, 0.05),
        ("2026-11-21-prediction.jsonl", 20, 0.20),
    ],
)
def test_forecasts_agree_with_the_steps_that_were_measured(
    bench: ModuleType, name: str, least: int, median: float, capsys
) -> None:
    found = bench.compare(bench.read(RESULTS / name, spread=0.3))
    assert found["points"] >= least and found["points"] == len(capsys.readouterr().out.splitlines()) - 1
    assert found["median_error"] <= median and found["inside_bar"] >= 0.9
    assert found["widest_bar"] <= 0.25 and found["limits_beaten"] == 0


def test_the_fit_finds_the_curves_that_made_the_points(bench: ModuleType) -> None:
    """Points made by slower curves than those it starts from."""
    points = bench.read(RESULTS / "2026-11-21.jsonl", spread=0.3)[:3]
    curves = points[0].place.efficiency
    slower = dataclasses.replace(curves, layer_s=tuple((rows, 1.5 * seconds) for rows, seconds in curves.layer_s))
    made = [dataclasses.replace(point, measured_ms=point.forecast(slower).value) for point in points]
    found = bench.fit(made, curves)
    errors = [point.forecast(found).value / point.measured_ms - 1 for point in made]
    before = [point.forecast(curves).value / point.measured_ms - 1 for point in made]
    assert max(map(abs, errors)) < 0.01 < max(map(abs, before))


def test_noisy_rows_are_left_out_where_that_is_asked(bench: ModuleType, tmp_path: Path) -> None:
    document = json.loads((RESULTS / "2026-11-21-prediction.jsonl").read_text().splitlines()[0])
    document["rows"][0]["spread"] = 5.0
    file = tmp_path / "points.jsonl"
    file.write_text(json.dumps(document) + "\n")
    assert len(bench.read(file, spread=1.0)) < len(bench.read(file, spread=float("inf"))) == len(document["rows"])


def test_steps_of_other_kernels_are_no_points(bench: ModuleType, tmp_path: Path) -> None:
    """Batch-invariant ones, for which there is no forecast."""
    found = []
    for line in (RESULTS / "2026-11-22.jsonl").read_text().splitlines():
        result = json.loads(line)["result"]
        if isinstance(result, dict) and result.get("options", {}).get("determinism") == "batch_invariant":
            found.append(line)
    assert found
    (tmp_path / "points.jsonl").write_text("\n".join(found))
    assert not bench.read(tmp_path / "points.jsonl", spread=1.0)
