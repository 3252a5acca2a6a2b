"""Qwen3-MoE: Qwen3's attention; every layer's feed-forward is sparse."""

from __future__ import annotations

from redline.layers.decoder import PreNormBlock
from redline.layers.moe import Moe
from redline.models.family import Family

FAMILY = Family(PreNormBlock, Moe)
