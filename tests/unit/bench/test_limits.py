"""The limits of `redline bench` are the published ones: 4.59 TB/s, 766 TFLOP/s, an H200."""

from __future__ import annotations

import pytest

from redline.bench import limits
from redline.bench.decode import Case
from redline.hardware.ceilings import Ceilings
from redline.plan.receipt import Meter
from redline.plan.roofline import StepWork, limit_s
from redline.shapes import ModelShape, known

H200 = Ceilings("cuda:0", "H200", 4.59e12, {"bfloat16": 766e12}, "")


def _meter(name: str) -> tuple[Meter, ModelShape]:
    shape = known(name)
    return Meter(shape, "bfloat16", 2, 2, H200, 0), shape


@pytest.mark.parametrize(
    ("name", "batch", "prompt", "published_ms"),
    [
        ("qwen3-8b", 1, 128, 3.306),
        ("qwen3-8b", 8, 512, 3.466),
        ("qwen3-8b", 32, 512, 3.972),
        ("qwen3-8b", 128, 512, 5.995),
        ("qwen3-8b", 256, 512, 10.454),
        ("llama-3.2-1b", 1, 128, 0.540),
        ("llama-3.2-1b", 8, 512, 0.576),
        ("llama-3.2-1b", 32, 512, 0.688),
        ("llama-3.2-1b", 128, 512, 1.138),
        ("llama-3.2-1b", 256, 512, 2.025),
    ],
)
def test_a_decode_step(name: str, batch: int, prompt: int, published_ms: float) -> None:
    case = Case(batch, prompt, 256)
    assert case.few == 32 and case.context == prompt + 144
    meter, shape = _meter(name)
    limit = limits.decode_s(meter, shape, batch, case.context)
    assert limit is not None
    assert limit * 1e3 == pytest.approx(published_ms, abs=6e-4)
    receipts = limit_s(meter.cost(StepWork.of([(case.context - 1, 1)] * batch, logit_rows=batch)), H200, "bfloat16")
    assert limit < receipts < 1.002 * limit  # what a receipt counts beyond: norms, embedding, KV writes


@pytest.mark.parametrize(
    ("name", "batch", "prompt", "published_ms"),
    [
        ("qwen3-8b", 8, 4096, 646.0),
        ("qwen3-8b", 1, 128, 3.3),
        ("qwen3-8b", 1, 512, 9.7),
        ("qwen3-8b", 1, 4096, 81.0),
        ("llama-3.2-1b", 8, 4096, 94.9),
        ("llama-3.2-1b", 1, 512, 1.4),
        ("llama-3.2-1b", 1, 4096, 12.0),
    ],
)
def test_a_prefill(name: str, batch: int, prompt: int, published_ms: float) -> None:
    meter, shape = _meter(name)
    limit = limits.prefill_s(meter, shape, batch, prompt)
    assert limit is not None
    assert limit * 1e3 == pytest.approx(published_ms, rel=2e-3, abs=0.05)


def test_a_set_of_requests() -> None:
    meter, shape = _meter("qwen3-8b")
    limit = limits.batch_s(meter, shape, 512, 1000, 1000)
    assert limit is not None
    assert 512 * 1000 / limit == pytest.approx(11_580, rel=1e-3)


def test_nothing_is_held_against_a_limit_that_was_not_measured() -> None:
    meter, shape = _meter("qwen3-8b")
    meter.ceilings = None
    assert limits.decode_s(meter, shape, 1, 128) is None
    assert limits.batch_s(meter, shape, 2, 8, 8) is None
