"""Mistral: Llama's wiring and names; every layer sees a sliding window where the config gives one."""

from __future__ import annotations

from redline.layers.decoder import PreNormBlock
from redline.layers.mlp import Mlp
from redline.models.family import Family

FAMILY = Family(PreNormBlock, Mlp)
