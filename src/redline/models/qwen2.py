"""Qwen2 and Qwen2.5: Llama's wiring and names, with biases on q, k and v."""

from __future__ import annotations

from redline.layers.decoder import PreNormBlock
from redline.layers.mlp import Mlp
from redline.models.family import Family

FAMILY = Family(PreNormBlock, Mlp)
