"""What a family's file says: which block and feed-forward it is made of, and how its files name the tensors.

Knows no family by name. Open `Family` first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from redline.layers.decoder import MakeBlock, MakeFeedForward

# Not weights: rotary tables that old versions of transformers saved.
_BUFFERS = (r"rotary_emb\.inv_freq$",)


@dataclass(frozen=True)
class Family:
    """Wiring and name table of one family.

    `renames` are (pattern, replacement) pairs, applied in turn to a file's tensor name to get the name the layers use.
    `ignored` are patterns of tensors that a sound file may hold and redline does not run.
    """

    block: MakeBlock
    feed_forward: MakeFeedForward
    renames: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()

    def name(self, stored: str) -> str:
        """The layers' name of the tensor that a file calls `stored`."""
        for pattern, replacement in self.renames:
            stored = re.sub(pattern, replacement, stored)
        return stored

    def ignores(self, stored: str) -> bool:
        return any(re.search(pattern, stored) for pattern in _BUFFERS + self.ignored)
