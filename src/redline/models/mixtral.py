"""Mixtral: Mistral's attention and a sparse feed-forward, whose files call gate, up and down w1, w3 and w2."""

from __future__ import annotations

from redline.layers.decoder import PreNormBlock
from redline.layers.moe import Moe
from redline.models.family import Family

FAMILY = Family(
    PreNormBlock,
    Moe,
    renames=(
        (r"\.block_sparse_moe\.", ".mlp."),
        (r"(\.experts\.\d+)\.w1\.", r"\1.gate_proj."),
        (r"(\.experts\.\d+)\.w3\.", r"\1.up_proj."),
        (r"(\.experts\.\d+)\.w2\.", r"\1.down_proj."),
    ),
)
