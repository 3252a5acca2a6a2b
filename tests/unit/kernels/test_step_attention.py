"""Who takes the attention of which decode step on a Hopper card."""

from __future__ import annotations

import pytest
import torch

from redline.kernels import op, step_attention
from redline.ops import TARGETS

pytest.importorskip("redline.kernels.batch_attention_cuda")

LLAMA_8B, LLAMA_1B, FEW_HEADS = (32, 8, 128), (32, 8, 64), (14, 2, 64)


@pytest.mark.parametrize(
    ("heads", "longest", "least"),
    [
        (LLAMA_8B, 1024, 40),
        (LLAMA_8B, 1025, 4),
        (LLAMA_8B, 4096, 4),
        (LLAMA_8B, 4097, 1),
        (LLAMA_1B, 1024, 40),
        (LLAMA_1B, 4096, 8),
        (LLAMA_1B, 40960, 3),
    ],
)
def test_from_how_many_sequences_on_keys_are_dealt(heads: tuple[int, int, int], longest: int, least: int) -> None:
    dealt = [rows for rows in range(1, 65) if step_attention.is_dealt(rows, longest, *heads, 64)]
    assert dealt == list(range(least, 65))


def test_heads_that_no_block_can_read_together_are_never_dealt() -> None:
    assert not any(step_attention.is_dealt(rows, longest, *FEW_HEADS, 64) for rows in (1, 256) for longest in (1000, 40960))
    assert not step_attention.is_dealt(256, 40960, *LLAMA_8B, 8), "pages of less than a tile"


def test_more_keys_than_can_be_counted_are_not_dealt() -> None:
    """A prefix that thousands share has few pages and yet counts for each of them. Tiles of 16 keys times blocks must stay within 32 bits."""
    from redline.kernels.batch_attention_cuda import MOST_KEYS, TILE

    assert MOST_KEYS // TILE * 256 <= 1 << 32, "for cards of up to 256 processors"
    assert step_attention.is_dealt(2048, MOST_KEYS // 2048, *LLAMA_8B, 64)
    assert not step_attention.is_dealt(2048, MOST_KEYS // 2048 + 1, *LLAMA_8B, 64)


def test_other_devices_types_and_heads_have_none_of_these(monkeypatch: pytest.MonkeyPatch) -> None:
    card = torch.device("cuda:0")
    monkeypatch.setattr(op, "device_of", lambda device: op.Device(TARGETS[90], processors=132))
    assert step_attention.takes(card, torch.bfloat16, *LLAMA_8B, 64)
    assert not step_attention.takes(torch.device("cpu"), torch.bfloat16, *LLAMA_8B, 64)
    assert not step_attention.takes(card, torch.float16, *LLAMA_8B, 64)
    for heads in ((32, 1, 64), (8, 8, 72), (8, 8, 272)):
        assert not step_attention.takes(card, torch.bfloat16, *heads, 64)
    assert not step_attention.takes(card, torch.bfloat16, *LLAMA_8B, 8)
    monkeypatch.setattr(op, "device_of", lambda device: op.Device(TARGETS[80], processors=108))
    assert not step_attention.takes(card, torch.bfloat16, *LLAMA_8B, 64)
