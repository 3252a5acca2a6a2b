"""Gemma 3, text: four norms a block, q and k norms, local and global layers with a rotary base each, a tied head.

Files of the larger models hold a vision tower beside the text model; redline runs the text model alone.
"""

from __future__ import annotations

from redline.layers.decoder import SandwichBlock
from redline.layers.mlp import Mlp
from redline.models.family import Family

FAMILY = Family(
    SandwichBlock,
    Mlp,
    renames=((r"^model\.language_model\.", "model."), (r"^language_model\.(?=model\.|lm_head\.)", "")),
    ignored=(r"^(model\.)?vision_tower\.", r"^(model\.)?multi_modal_projector\."),
)
