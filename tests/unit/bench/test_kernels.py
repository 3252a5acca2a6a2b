"""`redline bench kernels` walks every op, times only what is right, and knows the sizes of a model's steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from redline.bench import kernel_sizes, kernels
from redline.bench.report import Rates, Voice
from redline.errors import InvalidRequest
from redline.kernels import all_specs
from redline.kernels.op import OpSpec
from redline.shapes import known

CPU = torch.device("cpu")
ENGINE = {"device": "cpu", "num_threads": 1}
RATES = Rates(read_gb_s=20.0, matmul_tflops=0.1)
SILENT = Voice(tell=lambda text: None, hint=lambda text: None)


@pytest.fixture(autouse=True)
def _threads() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_every_op_is_checked_and_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "ROUND_S", 1e-4)
    document = kernels.measure("random:tiny-llama", ENGINE, kernels.Asked((), True, 1), SILENT, rates=RATES)
    assert {row["op"] for row in document["rows"]} == set(all_specs())
    assert document["notes"] == []
    for row in document["rows"]:
        assert "right" in row["check"] and row["us"] > 0 and row["ceiling_us"] > 0, row
        assert row["ratio"] == pytest.approx(row["ceiling_us"] / row["us"], rel=1e-2)


def _broken(spec: OpSpec, run: Callable[..., Any]) -> OpSpec:
    return dataclasses.replace(spec, run=run)


def test_an_op_that_fails_its_check_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    specs = all_specs()
    norm, silu = specs["rms_norm"], specs["silu_mul"]

    def wrong(**inputs: Any) -> Any:
        return norm.run(**inputs) * 1.1

    def fails(**inputs: Any) -> Any:
        raise RuntimeError("no kernel image\nis available")

    broken = {"rms_norm": _broken(norm, wrong), "silu_mul": _broken(silu, fails)}
    monkeypatch.setattr(kernels, "all_specs", lambda: broken)
    document = kernels.measure("random:tiny-llama", ENGINE, kernels.Asked((), False, 1), SILENT, rates=RATES)
    assert [row["us"] for row in document["rows"]] == [None, None]
    assert document["rows"][0]["check"].startswith("wrong at T1 D1: error 0.")
    assert document["rows"][1]["check"].startswith("failed at ") and "no kernel image" in document["rows"][1]["check"]
    assert len(document["notes"]) == 2


def test_ops_can_be_chosen_by_part_of_a_name() -> None:
    assert [spec.name for spec in kernels._chosen(("rms", "rotate"))] == ["rms_norm", "add_rms_norm", "rotate"]
    with pytest.raises(InvalidRequest):
        kernels._chosen(("nothing",))


def test_the_sizes_are_those_of_the_model() -> None:
    shape, specs = known("qwen3-8b"), all_specs()

    def sizes(name: str) -> list[dict[str, int]]:
        return [dict(axes) for axes in kernel_sizes.sizes(specs[name], shape, kernel_sizes.GPU, 16)]

    assert sizes("norm_linear")[0] == {"T": 1, "N": 6144, "K": 4096}
    assert sizes("linear_add")[:2] == [{"T": 1, "N": 4096, "K": 4096}, {"T": 1, "N": 4096, "K": 12288}]
    assert sizes("rms_norm")[-1] == {"T": 8192, "D": 4096}
    assert {(axes["B"], axes["C"]) for axes in sizes("decode_attention")} >= {(1, 32768), (16, 32768)}
    for name, spec in specs.items():
        for axes in sizes(name):
            assert set(spec.op.axes) <= set(axes), name
            assert spec.op.total_bytes(axes, spec.op.dtypes[0]) > 0


@pytest.mark.parametrize("name", kernel_sizes.ATTENTION)
def test_attention_is_timed_on_sequences_of_one_length(name: str) -> None:
    spec = all_specs()[name]
    axes = {"B": 3, "C": 40, "N": 4, "K": 2, "H": 16, "S": 8, "W": 0} | ({"Q": 2} if name == "paged_attention" else {})
    made = kernel_sizes.inputs(spec, axes, torch.float32, CPU)
    assert made["ragged"].context_B.tolist() == [40, 40, 40]
    (want, *_), (got, *_) = spec.reference(**made), spec.results(spec.run, made)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_copies_of_the_operands_outgrow_the_cache() -> None:
    timer = kernels.Timer(CPU, 2)
    timer._cache_bytes = 1 << 20
    seen: set[int] = set()

    def run(x: torch.Tensor) -> None:
        seen.add(x.data_ptr())

    samples, graph = timer.seconds(run, {"x": torch.zeros(1 << 16)})
    assert len(seen) == kernels.CACHES * (1 << 20) // (1 << 18)
    assert len(samples) == 2 and not graph
