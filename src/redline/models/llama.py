"""Llama 2 and 3.x, SmolLM2 and whatever else calls itself llama: the plain pre-norm decoder, and the names all others vary."""

from __future__ import annotations

from redline.layers.decoder import PreNormBlock
from redline.layers.mlp import Mlp
from redline.models.family import Family

FAMILY = Family(PreNormBlock, Mlp)
