"""Qwen3, dense: Llama's wiring and names, with q and k normalised per head before they are rotated."""

from __future__ import annotations

from redline.layers.decoder import PreNormBlock
from redline.layers.mlp import Mlp
from redline.models.family import Family

FAMILY = Family(PreNormBlock, Mlp)
