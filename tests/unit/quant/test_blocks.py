"""Block decoders against the gguf package's numpy ones, bit for bit in float32."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

from model_files import packed_rows
from redline.checkpoint.packed import Packed
from redline.formats import FORMATS
from redline.quant import unpack
from redline.quant.blocks import DECODERS

BLOCK_FORMATS = [name for name, form in FORMATS.items() if not form.plain]


def reference(raw: np.ndarray, format: str) -> np.ndarray:
    return gguf.dequantize(np.ascontiguousarray(raw), gguf.GGMLQuantizationType(FORMATS[format].gguf_id))


def test_every_block_format_has_a_decoder() -> None:
    assert sorted(DECODERS) == sorted(BLOCK_FORMATS)


@pytest.mark.parametrize("format", BLOCK_FORMATS)
@pytest.mark.parametrize(("rows", "blocks"), [(1, 1), (7, 3), (33, 5)])
def test_random_blocks_equal_the_reference(format: str, rows: int, blocks: int) -> None:
    form = FORMATS[format]
    raw = packed_rows(np.random.default_rng(rows), format, rows, blocks, form.block_bytes)
    packed = Packed("model.layers.0.mlp.up_proj.weight", format, (rows, blocks * form.block), raw)
    np.testing.assert_array_equal(unpack(packed, torch.float32).numpy(), reference(raw, format))


@pytest.mark.parametrize("format", BLOCK_FORMATS)
def test_every_code_and_every_scale_bit_counts(format: str) -> None:
    """One block of each byte value: a bit that a decoder drops changes no random average, but it changes one of these."""
    form = FORMATS[format]
    raw = np.repeat(np.arange(256, dtype=np.uint8)[:, None], form.block_bytes, axis=1)
    finite = packed_rows(np.random.default_rng(0), format, 256, 1, form.block_bytes)
    random_scales = packed_rows(np.random.default_rng(1), format, 256, 1, form.block_bytes) != finite
    raw = np.where(random_scales, raw, finite)
    for at in (index for index in range(0, form.block_bytes - 1, 2)):
        half = raw[:, at : at + 2].copy().view(np.float16)
        if not np.isfinite(half).all():
            raw[:, at : at + 2] = finite[:, at : at + 2]
    packed = Packed("x.weight", format, (256, form.block), raw)
    np.testing.assert_array_equal(unpack(packed, torch.float32).numpy(), reference(raw, format))


@pytest.mark.parametrize("format", BLOCK_FORMATS)
def test_infinite_scales_give_what_the_reference_gives(format: str) -> None:
    """A hostile scale yields infinities and NaN, not an error."""
    form = FORMATS[format]
    raw = np.full((2, form.block_bytes), 0x7C, np.uint8)
    with np.errstate(all="ignore"):
        expected = reference(raw, format)
    np.testing.assert_array_equal(unpack(Packed("x.weight", format, (2, form.block), raw), torch.float32).numpy(), expected)
