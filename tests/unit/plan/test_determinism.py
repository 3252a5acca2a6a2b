"""Batch invariance in the plan: refused by name where it cannot be kept, and its price said or said to be unknown."""

from __future__ import annotations

import pytest

from redline.errors import ConfigError
from redline.hardware import Gpu
from redline.plan import determinism
from redline.plan.determinism import Curve
from redline.shapes import known
from unit.plan.test_resolve import H200, LLAMA, STRANGER, machine, run

MODE = {"determinism": "batch_invariant"}
CURVES = (
    Curve("H200", "llama-3.1-8b", "bfloat16", ((1, 4.0, 5.0), (256, 13.0, 19.5))),
    Curve("H200", "llama-3.2-1b", "bfloat16", ((1, 0.6, 0.9),)),
)


def test_a_cpu_and_sparse_models_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="batch_invariant needs a GPU") as refused:
        run(**MODE)
    assert refused.value.param == "determinism"
    sparse = known("mixtral-8x7b")
    with pytest.raises(ConfigError, match="not to be had for mixtral"):
        run(sparse, machine(H200), **MODE)
    with pytest.raises(ConfigError, match="must be one of default, batch_invariant"):
        run(determinism="always")


def test_the_price_is_quoted_where_it_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(determinism, "MEASURED", CURVES)
    (note,) = run(LLAMA, machine(H200), **MODE).notes
    assert "llama-3.1-8b in bfloat16 takes so many times as long: 1.25 at batch 1, 1.50 at batch 256" in note
    (note,) = run(known("qwen3-8b"), machine(H200), **MODE).notes
    assert "llama-3.1-8b" in note


@pytest.mark.parametrize(
    ("model", "gpu", "options"),
    [("llama-3.1-8b", STRANGER, {}), ("llama-3.1-8b", H200, {"dtype": "float16"}), ("smollm2-135m", H200, {})],
)
def test_it_is_said_not_to_be_measured_elsewhere(
    model: str, gpu: Gpu, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(determinism, "MEASURED", CURVES)
    notes = run(known(model), machine(gpu), **MODE, **options).notes
    assert any("was not measured for such a model" in note and gpu.name in note for note in notes)


def test_without_the_mode_nothing_changes() -> None:
    plain, invariant = run(LLAMA, machine(H200)), run(LLAMA, machine(H200), **MODE)
    assert not plain.notes and plain.config.device.determinism == "default"
    assert plain.memory.budget_bytes - invariant.memory.budget_bytes == determinism.SCRATCH_BYTES


def test_measured_curves_can_be_quoted() -> None:
    from redline.hardware.specs import CHIPS

    for curve in determinism.MEASURED:
        assert curve.chip in {row.name for row in CHIPS} and known(curve.model)
        assert [batch for batch, _, _ in curve.steps] == sorted(batch for batch, _, _ in curve.steps)
