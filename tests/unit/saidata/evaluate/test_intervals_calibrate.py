"""Intervals that are too narrow and confidences that flatter would both make the report lie."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from saidata.errors import Misuse, NotHere
from saidata.evaluate import calibrate
from saidata.evaluate.intervals import middle, ratio
from saidata.generate.made import Feature


def test_a_rate_is_the_ratio_of_the_sums() -> None:
    found = ratio([(1, 2), (9, 10), (0, 0)])
    assert found.value == pytest.approx(10 / 12) and found.files == 2
    assert found.low <= found.value <= found.high


def test_equal_files_still_leave_doubt() -> None:
    few, many = ratio([(0, 5)] * 10), ratio([(0, 5)] * 300)
    assert few.value == 0 and few.low == 0 and few.high > 0.25
    assert 0.005 < many.high < 0.02
    assert ratio([(5, 5)] * 10).low < 0.75


def test_files_are_resampled_not_values() -> None:
    even = ratio([(50, 100)] * 20)
    lumped = ratio([(100, 100)] * 10 + [(0, 100)] * 10)
    assert even.high - even.low < 0.01 < 0.3 < lumped.high - lumped.low


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    drawn = random.Random(5)
    held = 0
    for trial in range(200):
        pairs = [(sum(drawn.random() < 0.8 for _ in range(5)), 5.0) for _ in range(40)]
        found = ratio(pairs, seed=trial)
        held += found.low <= 0.8 <= found.high
    assert 180 <= held <= 199


def test_a_rate_of_nothing_is_an_error_and_not_a_number() -> None:
    with pytest.raises(ValueError, match="no file"):
        ratio([(0, 0)])
    assert middle([2.0, 4.0]).value == 3


def _feature(share: float, **more: object) -> Feature:
    return Feature(**{"path": ("metadata", "category"), "value": "web", "by": "model", "share": share} | more)  # type: ignore[arg-type]


def test_isotonic_pools_what_falls() -> None:
    edges, chances = calibrate.isotonic(
        [(0.1, False)] * 10 + [(0.5, True)] * 5 + [(0.5, False)] * 5 + [(0.6, True)] * 4 + [(0.6, False)] * 6 + [(0.9, True)] * 10
    )
    assert edges == (0.1, 0.5, 0.9)
    assert list(chances) == sorted(chances) and chances[0] < 0.2 < 0.4 < chances[1] < 0.5 < 0.9 < chances[2] < 1


def test_a_score_that_says_nothing_gives_no_curve() -> None:
    assert calibrate.isotonic([(0.5, True), (0.5, False)]) == ((), ())
    assert calibrate.isotonic([(0.1, True)] * 5 + [(0.9, False)] * 5) == ((), ())


def test_fitted_confidences_are_reliable_on_values_they_did_not_see() -> None:
    drawn = random.Random(3)

    def values(number: int) -> list[tuple[Feature, bool]]:
        shares = [drawn.random() for _ in range(number)]
        return [(_feature(share), drawn.random() < share**2) for share in shares]

    table = calibrate.fit(values(1500), "m", "g")
    pairs = [(table(feature), right) for feature, right in values(1500)]
    found = calibrate.reliability([(confidence, right) for confidence, right in pairs if confidence is not None])
    raw = calibrate.reliability([(feature.share or 0.0, right) for feature, right in values(1500)])
    assert found is not None and raw is not None
    assert found.values == 1500 and found.error < 0.05 < raw.error
    risks = [risk for _, risk in found.curve]
    assert found.curve[-1][0] == 1 and risks[0] < 0.2 < risks[-1]
    assert found.area < risks[-1]


def test_small_groups_get_no_confidence() -> None:
    table = calibrate.fit([(_feature(0.9), True)] * (calibrate.ENOUGH - 1), "m", "g")
    assert table.groups == () and table(_feature(0.9)) is None


def test_a_group_is_its_field_its_author_and_its_verdict() -> None:
    pairs = [(_feature(0.5, by="evidence", status="confirmed", path=("packages", 0, "package_name")), True)] * 40
    table = calibrate.fit(pairs, "m", "g")
    assert table(
        _feature(0.5, by="evidence", status="confirmed", path=("providers", "apt", "packages", 3, "package_name"))
    ) == pytest.approx(41 / 42, abs=1e-4)
    assert table(_feature(0.5, by="evidence", status="not_checkable", path=("packages", 0, "package_name"))) is None
    assert table(_feature(0.5)) is None


@pytest.mark.parametrize(
    ("path", "field"),
    [
        (("services", 0, "service_name"), "units"),
        (("files", 2, "path"), "configs"),
        (("commands", 2, "path"), "commands"),
        (("providers", "apt", "commands", 2, "path"), "commands"),
        (("metadata", "license"), "licence"),
        (("ports", 0, "port"), "ports"),
        (("directories", 0, "path"), "directories.path"),
        (("metadata", "description"), "metadata.description"),
    ],
)
def test_places_have_the_gold_sets_names(path: tuple[str | int, ...], field: str) -> None:
    assert calibrate.field_of(_feature(0.5, path=path)) == field


def test_values_of_one_confidence_enter_the_curve_together() -> None:
    found = calibrate.reliability([(0.9, True), (0.9, False), (0.1, False)])
    assert found is not None and found.curve == ((2 / 3, 0.5), (1.0, 2 / 3))
    assert calibrate.reliability([]) is None


def test_tables_are_read_back_and_broken_ones_told(tmp_path: Path) -> None:
    import msgspec

    table = calibrate.fit([(_feature(0.9), True)] * 30, "m", "g")
    (tmp_path / "t.json").write_bytes(msgspec.json.encode(table))
    assert calibrate.load(tmp_path / "t.json") == table
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(Misuse):
        calibrate.load(tmp_path / "bad.json")
    with pytest.raises(NotHere):
        calibrate.load(tmp_path / "none.json")
