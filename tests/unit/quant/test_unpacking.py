"""From `Packed` to tensors: every view and piece gives the same numbers, and random weights depend on their name alone."""

from __future__ import annotations

import time

import gguf
import numpy as np
import pytest
import torch

from model_files import packed_rows
from redline.checkpoint.gguf import GgufCheckpoint
from redline.checkpoint.gguf_names import hf_rows
from redline.checkpoint.packed import Packed
from redline.formats import FORMATS
from redline.quant import unpack, unpack_into, unpacking


def q4_1(rows: int, blocks: int, seed: int = 0) -> tuple[Packed, np.ndarray]:
    raw = packed_rows(np.random.default_rng(seed), "q4_1", rows, blocks, 20)
    return Packed("x.weight", "q4_1", (rows, blocks * 32), raw), gguf.dequantize(raw, gguf.GGMLQuantizationType.Q4_1)


@pytest.mark.parametrize("piece", [1, 32, 33, 100, 1000, 1 << 20])
def test_pieces_of_any_size_join_to_the_same_tensor(piece: int, monkeypatch) -> None:
    monkeypatch.setattr(unpacking, "_CPU_PIECE", piece)
    packed, expected = q4_1(13, 5)
    np.testing.assert_array_equal(unpack(packed, torch.float32).numpy(), expected)
    long_row = Packed("x.bias", "f32", (1001,), np.arange(1001, dtype=np.float32))
    np.testing.assert_array_equal(unpack(long_row, torch.float32).numpy(), long_row.data)


@pytest.mark.parametrize("piece", [32, 200, 1 << 20])
def test_a_permuted_view_unpacks_as_its_rows_reordered(piece: int, monkeypatch) -> None:
    monkeypatch.setattr(unpacking, "_CPU_PIECE", piece)
    packed, expected = q4_1(24, 2)
    view = Packed("q", "q4_1", packed.shape, hf_rows("q", packed.data, 24, 8))
    reordered = expected.reshape(3, 4, 2, 64).swapaxes(1, 2).reshape(24, 64)
    np.testing.assert_array_equal(unpack(view, torch.float32).numpy(), reordered)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_plain_formats_convert_as_torch_does(dtype: torch.dtype) -> None:
    values = torch.randn(5, 7)
    for packed, expected in (
        (Packed("w", "f32", (5, 7), values.numpy()), values),
        (Packed("w", "f16", (5, 7), values.half().numpy()), values.half()),
        (Packed("w", "bf16", (5, 7), values.bfloat16().view(torch.uint16).numpy()), values.bfloat16()),
    ):
        assert torch.equal(unpack(packed, dtype), expected.to(dtype))


def test_scalars_and_empty_tensors_have_their_shapes() -> None:
    assert unpack(Packed("w", "f32", (), np.array(3, np.float32)), torch.float32).item() == 3
    assert unpack(Packed("w", "f32", (0, 4), np.empty((0, 4), np.float32)), torch.float32).shape == (0, 4)


def test_half_types_round_the_exact_values() -> None:
    packed, expected = q4_1(9, 4)
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.equal(unpack(packed, dtype), torch.from_numpy(expected).to(dtype))


def test_read_only_memory_is_neither_written_nor_shared(recwarn) -> None:
    packed, _ = q4_1(4, 2)
    packed.data.flags.writeable = False
    plain = Packed("w", "f32", (4,), np.ones(4, np.float32))
    plain.data.flags.writeable = False
    unpack(packed, torch.float32).zero_()
    unpack(plain, torch.float32).zero_()
    assert plain.data.sum() == 4 and not recwarn.list


def test_unpack_into_a_part_of_a_larger_tensor() -> None:
    """What fused layers do: the rows of q, k and v land in one tensor, without a copy between."""
    packed, expected = q4_1(4, 2)
    fused = torch.full((12, 64), torch.nan)
    unpack_into(packed, fused[4:8])
    np.testing.assert_array_equal(fused[4:8].numpy(), expected)
    assert fused[:4].isnan().all() and fused[8:].isnan().all()


def random(name: str, *shape: int) -> Packed:
    return Packed(name, "random", shape, np.empty(0, np.uint8))


def test_random_weights_depend_on_name_and_seed_alone() -> None:
    a, b = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"
    first = unpack(random(a, 64, 64), torch.float32)
    assert torch.equal(first, unpack(random(a, 64, 64), torch.float32))
    assert not torch.equal(first, unpack(random(b, 64, 64), torch.float32))
    assert not torch.equal(first, unpack(random(a, 64, 64), torch.float32, seed=1))
    assert first.mean().abs() < 0.002 and 0.018 < first.std() < 0.022


@pytest.mark.parametrize(
    "name", ["model.norm.weight", "model.layers.3.input_layernorm.weight", "model.layers.0.self_attn.q_norm.weight"]
)
def test_random_norm_weights_lie_around_one(name: str) -> None:
    weights = unpack(random(name, 4096), torch.float32)
    assert abs(weights.mean() - 1) < 0.01 and 0.08 < weights.std() < 0.12


@pytest.mark.real_model
def test_a_real_model_unpacks_exactly_and_fast(smollm2) -> None:
    """A sample of tensors bit for bit, and 135 M weights in CPU time that only a loop over blocks would exceed."""
    checkpoint = GgufCheckpoint(smollm2)
    reference = {tensor.name: tensor for tensor in gguf.GGUFReader(smollm2).tensors}
    start = time.process_time()
    tensors = {packed.name: unpack(packed, torch.bfloat16) for packed in checkpoint.arrays()}
    seconds = time.process_time() - start
    assert sum(tensor.numel() for tensor in tensors.values()) == 134_515_008
    assert seconds < 5
    for ours, theirs in (("mlp.down_proj", "ffn_down"), ("self_attn.v_proj", "attn_v"), ("input_layernorm", "attn_norm")):
        raw = reference[f"blk.7.{theirs}.weight"]
        expected = gguf.dequantize(raw.data, raw.tensor_type)
        assert torch.equal(tensors[f"model.layers.7.{ours}.weight"], torch.from_numpy(expected.copy()).bfloat16())


def test_formats_agree_with_the_gguf_package() -> None:
    for format in FORMATS.values():
        if format.gguf_id is not None:
            block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(format.gguf_id)]
            assert (format.block, format.block_bytes) == (block, block_bytes), format.name
