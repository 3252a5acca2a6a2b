"""Embedding and head: the scale's rounding, a tied head's storage, the type of logits."""

from __future__ import annotations

import torch

from redline.layers.embed import Embedding, Head
from redline.layers.weights import Place
from redline.parallel.ranks import Ranks


def _place(dtype: torch.dtype) -> Place:
    return Place(dtype, torch.device("cpu"), Ranks.single())


def test_the_scale_is_rounded_to_the_models_type_first() -> None:
    """Gemma multiplies by sqrt(width) in the embedding's own type: 33.94 is 34 in bfloat16."""
    embed = Embedding(3, 4, 1152**0.5, _place(torch.bfloat16))
    embed.weight_VD.fill_(1.0)
    assert embed(torch.tensor([2])).tolist() == [[34.0] * 4]
    assert embed.weight_VD[2].tolist() == [1.0] * 4


def test_a_tied_head_is_the_embeddings_storage_and_asks_for_no_tensor() -> None:
    place = _place(torch.bfloat16)
    embed = Embedding(5, 4, 1.0, place)
    tied, own = Head(5, 4, place, embed), Head(5, 4, place, None)
    assert tied.weight_VD.data_ptr() == embed.weight_VD.data_ptr()
    assert list(tied.slots("lm_head")) == [] and [name for name, _ in own.slots("lm_head")] == ["lm_head.weight"]
    embed.weight_VD.fill_(0.5)
    logits = tied(torch.ones(2, 4, dtype=torch.bfloat16))
    assert logits.dtype is torch.float32 and logits.tolist() == [[2.0] * 5] * 2
