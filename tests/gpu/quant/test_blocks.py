"""Block decoders on a GPU: bit for bit what they give on the CPU, which the gguf package vouches for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model_files import packed_rows
from redline.checkpoint.packed import Packed
from redline.formats import FORMATS
from redline.quant import unpack, unpacking


@pytest.mark.gpu
@pytest.mark.parametrize("format", [name for name, form in FORMATS.items() if not form.plain])
@pytest.mark.parametrize("piece", [1000, 1 << 24])
def test_a_gpu_unpacks_as_the_cpu_does(format: str, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    form = FORMATS[format]
    raw = packed_rows(np.random.default_rng(0), format, 37, 3, form.block_bytes)
    packed = Packed("x.weight", format, (37, 3 * form.block), raw)
    expected = unpack(packed, torch.float32)
    monkeypatch.setattr(unpacking, "_GPU_PIECE", piece)
    assert torch.equal(unpack(packed, torch.float32, "cuda").cpu(), expected)
    assert torch.equal(unpack(packed, torch.bfloat16, "cuda").cpu(), expected.bfloat16())
