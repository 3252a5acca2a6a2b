"""A forecast follows what was measured of the ways to a chip, and only what nothing disturbed."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from redline.hardware import Cpu, Gpu, Machine, identify
from redline.hardware.survey import Figure, Probe, Samples, Survey, identify_group, take
from redline.plan.links import Links, links_of
from redline.plan.place import Place, on_chips
from redline.plan.precision import kv_format, weight_format
from redline.plan.predict import MEASURED_SWAP_DOUBT, SWAP_SHARE, Predictor
from redline.plan.split import Layout, collective_bytes, latency_s
from redline.shapes import known

TWO = on_chips("2xh200")
SHAPE = known("llama-3.1-8b")
GPU = Gpu(0, "GPU-1", "NVIDIA H200", (9, 0), 140 << 30, 139 << 30, "580", 700.0, 700.0, 1980, 3201)
MACHINE = Machine(Cpu("a cpu", 2), (GPU, dataclasses.replace(GPU, index=1, uuid="GPU-2")), 16 << 30, 8 << 30)


def predictor(links: Links | None, layout: Layout, place: Place = TWO) -> Predictor:
    return Predictor(SHAPE, dataclasses.replace(place, links=links), weight_format("bf16"), kv_format("bf16"), layout)


def survey(despite: str = "", **figures: float) -> Survey:
    rows = tuple(Figure(name.replace("_", " "), "bytes/s", value) for name, value in figures.items())
    return Survey("cuda:0", "a card", rows, "2026-11-22", 1.0, despite)


def test_swaps_take_what_the_copy_took() -> None:
    assert TWO.host_bytes_per_s is not None
    assumed = predictor(None, Layout()).swap_s(16e9)
    measured = predictor(Links(host_bytes_per_s=30e9), Layout()).swap_s(16e9)
    assert assumed is not None and measured is not None
    assert assumed.value == pytest.approx(16e9 / TWO.host_bytes_per_s / SWAP_SHARE)
    assert measured.value == pytest.approx(16 / 30) and measured.error == pytest.approx(MEASURED_SWAP_DOUBT)
    assert measured.limit == assumed.limit  # the slot's line rate still is what nobody beats


def test_a_copy_that_beats_the_line_rate_moves_the_limit() -> None:
    told = predictor(Links(host_bytes_per_s=1e12), Layout()).swap_s(16e9)
    assert told is not None and told.limit == told.value == pytest.approx(0.016)


def test_a_way_that_no_table_knows_is_known_once_measured() -> None:
    unknown = dataclasses.replace(TWO, host_bytes_per_s=None, link_bytes_per_s=None)
    assert predictor(None, Layout(), unknown).swap_s(16e9) is None
    told = predictor(Links(host_bytes_per_s=20e9), Layout(), unknown).swap_s(16e9)
    assert told is not None and told.value == pytest.approx(0.8)
    sums = Links(sums_bytes_per_s=1e11, chips=2)
    words = [" ".join(reason for reason, _ in predictor(links, Layout(2), unknown).doubts) for links in (None, sums)]
    assert ["link between the chips is not known" in text for text in words] == [True, False]


def test_sums_take_what_they_took() -> None:
    def collectives(links: Links | None) -> float:
        (part,) = (part for part in predictor(links, Layout(2)).decode(4, 300).parts if part.bound == "link")
        return part.seconds

    slow = Links(sums_bytes_per_s=5e9, sum_s=30e-6, chips=2)
    moved = collective_bytes(SHAPE, Layout(2), 4, 4)
    assert collectives(slow) == pytest.approx(moved / 5e9 + 2 * SHAPE.num_layers * 30e-6)
    only_small = Links(sum_s=30e-6, chips=2)
    assert collectives(only_small) - collectives(None) == pytest.approx(
        latency_s(SHAPE, Layout(2), 30e-6) - latency_s(SHAPE, Layout(2))
    )
    impossible = Links(sums_bytes_per_s=1e15, sum_s=1e-9, chips=2)
    (part,) = (part for part in predictor(impossible, Layout(2)).decode(4, 300).parts if part.bound == "link")
    assert part.seconds >= part.limit_s


def test_a_small_sum_over_eight_counts_by_doublings() -> None:
    assert Links(sum_s=30e-6, chips=8).round_s == pytest.approx(10e-6)
    assert Links(sum_s=30e-6, chips=1).round_s is None and Links(chips=4).round_s is None


def test_what_was_disturbed_or_not_measured_does_not_count() -> None:
    own, group = survey(host_to_device=5e10), survey(**{"all-reduce": 4e11, "all-reduce, small": 9e-6})
    assert Links.of(own, group, 2) == Links(5e10, 4e11, 9e-6, 2)
    assert Links.of(survey("it is busy", host_to_device=5e10), None, 2) is None
    assert Links.of(survey(copy=1e12), None, 1) is None and Links.of(None, None, 1) is None


def test_links_are_found_where_doctor_left_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDLINE_CACHE", str(tmp_path))
    assert links_of(MACHINE, "cuda:0") is None and links_of(MACHINE, "cpu") is None
    for identity, name, value in (
        (identify(MACHINE, "cuda:0"), "host to device", 5e10),
        (identify_group(MACHINE), "all-reduce", 4e11),
    ):
        take(identity, [Probe(name, "bytes/s", lambda seconds, value=value: Samples([value]))], math.inf, sheet={})
    assert links_of(MACHINE, "cuda:0") == Links(5e10, 4e11, None, 2)
    assert links_of(MACHINE, "cuda:1") == Links(None, 4e11, None, 2)
