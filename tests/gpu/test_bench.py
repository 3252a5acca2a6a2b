"""`redline bench` on a real card: kernels are counted inside graphs, joules are read, calls are replayed from a graph."""

from __future__ import annotations

import pytest
import torch

from redline.bench import decode, kernels, prefill, throughput
from redline.bench.report import Rates, Voice

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]

MODEL = "random:smollm2-135m"
ENGINE = {"device": "cuda:0", "max_model_len": 1024, "kv_cache_memory": 2.0}
SILENT = Voice(tell=lambda text: None, hint=lambda text: None)


def test_decode_steps_are_split_to_the_kernel() -> None:
    asked = decode.cases("1,4", 32, 256)
    document = decode.measure(MODEL, ENGINE, asked, SILENT, repeats=2, trace=True, rates=Rates())
    assert not [note for note in document["notes"] if "rounds differ" not in note], "but what other processes do to the rounds"
    for row in document["rows"]:
        assert 0 < row["ratio"] <= 1.05
        assert row["kernels_per_layer"] >= 1 and row["kernels"][0]["us_per_step"] > 0
        assert row["joules_per_token"] is None or row["joules_per_token"] > 0
        assert row["device_ms"] <= row["step_ms"] * 1.1
        assert row["split"]["launches_ms"] is not None


def test_prefill_and_throughput() -> None:
    (row,) = prefill.measure(MODEL, ENGINE, [(2, 256)], SILENT, repeats=2, rates=Rates())["rows"]
    assert 0 < row["ratio"] <= 1.05
    (row,) = throughput.measure(MODEL, ENGINE, (32, 64, 32), SILENT, repeats=1, rates=Rates())["rows"]
    assert 0 < row["ratio"] <= 1.05 and row["mean_batch"] > 16


def test_kernels_are_right_and_replayed_from_graphs() -> None:
    asked = kernels.Asked(("rms_norm", "silu", "decode_attention", "norm_linear"), True, 3)
    document = kernels.measure(MODEL, {"device": "cuda:0"}, asked, SILENT, rates=Rates())
    assert not document["notes"]
    for row in document["rows"]:
        assert row["graph"], row
        assert 0 < row["ratio"] < 1.3, row
