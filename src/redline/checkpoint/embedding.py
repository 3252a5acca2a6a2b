"""How a model's makers turn its last hidden states into one vector, where the folder says so.

Folders made with sentence-transformers have a file on pooling; `is_matryoshka` and `matryoshka_dimensions` in config.json
are how other servers are told that a vector may be cut. Knows nothing of what redline can pool. Open `of_folder`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redline.checkpoint.json_file import read_object

POOLING = Path("1_Pooling/config.json")
DENSE = "*_Dense/config.json"  # a layer behind the pooling

_MODE = "pooling_mode_"
_NAMES = {"lasttoken": "last", "mean_tokens": "mean", "mean": "mean", "cls_token": "cls"}
_GGUF = {1: "mean", 2: "cls", 3: "last", 4: "rank"}


@dataclass(frozen=True, kw_only=True)
class EmbeddingDefaults:
    """`pooling` is "last", "mean", or what else the folder calls it; None where it does not say.

    `matryoshka`: vectors may be cut, to one of `dimensions` or, where there are none, to any size.
    """

    pooling: str | None = None
    matryoshka: bool = False
    dimensions: tuple[int, ...] = ()


def of_folder(folder: Path, config: dict[str, Any]) -> EmbeddingDefaults:
    """What `folder`, whose config.json is `config`, says. Raises CheckpointError for a broken file on pooling."""
    stated = config.get("matryoshka_dimensions")
    sizes = tuple(size for size in stated if type(size) is int and size > 0) if isinstance(stated, list) else ()
    return EmbeddingDefaults(
        pooling=_pooling(folder), matryoshka=bool(sizes) or config.get("is_matryoshka") is True, dimensions=sizes
    )


def of_gguf(metadata: dict[str, Any]) -> EmbeddingDefaults:
    """What the metadata of a GGUF file says."""
    kind = metadata.get(f"{metadata.get('general.architecture')}.pooling_type")
    return EmbeddingDefaults(pooling=_GGUF.get(kind) if type(kind) is int else None)


def _pooling(folder: Path) -> str | None:
    if not (folder / POOLING).is_file():
        return None
    if any(folder.glob(DENSE)):
        return "dense"
    stated = read_object(folder / POOLING)
    mode = stated.get("pooling_mode")
    modes = (
        [mode]
        if isinstance(mode, str)
        else [key.removeprefix(_MODE) for key, on in stated.items() if on is True and _MODE in key]
    )
    return "+".join(sorted(_NAMES.get(name, name) for name in modes)) or None
