"""On a real card: the driver is read, the probes are quick, and what they find is possible and not far from the table."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from redline.hardware import ceilings, detect, identify
from redline.hardware.specs import chip
from redline.kernels.probes import probes

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]


def test_detection_agrees_with_torch() -> None:
    gpu = detect().gpus[0]
    seen = torch.cuda.get_device_properties(0)
    assert gpu.name == seen.name and gpu.capability == (seen.major, seen.minor)
    assert gpu.memory_bytes == pytest.approx(seen.total_memory, rel=0.05)
    assert 0 < gpu.free_bytes <= gpu.memory_bytes and gpu.driver


def test_measured_ceilings_lie_close_under_the_data_sheet(tmp_path: Path) -> None:
    """A card that reads under 80 % of its data sheet is throttled or shared, or the probe is wrong."""
    identity = identify(detect(), "cuda:0")
    torch.zeros(1, device="cuda:0")  # the context is not part of the measurement
    made = probes(torch.device("cuda:0"), (torch.float32, torch.float16))
    began = time.perf_counter()
    measured = ceilings.measure(identity, made, tmp_path)
    assert time.perf_counter() - began < 5
    row = chip(identity.name)
    if row is not None:
        assert 0.8 < measured.read_bytes_per_s / row.read_bytes_per_s <= 1.0
        assert 0.4 < measured.matmul_flops["float16"] / row.flops["float16"] <= 1.05
    assert ceilings.load(identity, tmp_path) == measured
