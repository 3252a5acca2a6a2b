"""Which family a shape belongs to, and a model of it with empty weights.

Knows nothing of files (`load.py` fills the weights). Open `build` first.
"""

from __future__ import annotations

import torch

from redline.errors import UnsupportedModel
from redline.layers.decoder import Decoder as Model
from redline.layers.weights import Arena, Place
from redline.models import gemma3, llama, mistral, mixtral, qwen2, qwen3, qwen3_moe
from redline.models.family import Family
from redline.parallel.ranks import Ranks
from redline.shapes import ModelShape

__all__ = ["Model", "build", "family_of"]

_FAMILIES: dict[str, Family] = {
    "llama": llama.FAMILY,
    "mistral": mistral.FAMILY,
    "qwen2": qwen2.FAMILY,
    "qwen3": qwen3.FAMILY,
    "gemma3": gemma3.FAMILY,
    "mixtral": mixtral.FAMILY,
    "qwen3_moe": qwen3_moe.FAMILY,
}


def family_of(shape: ModelShape) -> Family:
    """The wiring and names of `shape.family`; raises UnsupportedModel for one that redline does not run."""
    if shape.family not in _FAMILIES:
        raise UnsupportedModel(f"family {shape.family!r} is not supported", hint=f"supported: {', '.join(_FAMILIES)}")
    return _FAMILIES[shape.family]


def build(
    shape: ModelShape,
    dtype: torch.dtype,
    device: torch.device | str,
    *,
    max_len: int,
    ranks: Ranks | None = None,
    invariant: bool = False,
    arena_bytes: int = 0,
) -> Model:
    """A model of `shape` with uninitialised weights of `dtype` on `device`, cut from one piece of `arena_bytes` where given.

    `max_len` is the longest context in tokens that it will see: the length of its rotary table. Without `ranks` the
    device holds the whole model. `invariant`: a token's logits do not depend, bit for bit, on what shares its step; on a GPU
    only, and not of sparse models. Raises UnsupportedModel, or ConfigError where a dimension cannot be shared by the ranks.
    """
    family = family_of(shape)
    assert not (invariant and shape.moe), "plan.resolve refuses a sparse model that is to be batch invariant"
    arena = Arena(arena_bytes, torch.device(device)) if arena_bytes else None
    place = Place(dtype, torch.device(device), ranks or Ranks.single(), invariant, arena)
    return Model(shape, family.block, family.feed_forward, max_len, place)
