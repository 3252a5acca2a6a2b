"""From what a user calls a model to an opened checkpoint. Fetches nothing: a model that is not here is an error.

Open `open` first; where models lie is `store`'s business, what is in them the readers'.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from redline.checkpoint import random, store
from redline.checkpoint.base import Checkpoint
from redline.checkpoint.folder import FolderCheckpoint
from redline.checkpoint.gguf import GgufCheckpoint

if TYPE_CHECKING:
    from redline.tokenizer import Tokenizer


def open(name: str, *, revision: str | None = None) -> Checkpoint:
    """The checkpoint that `name` means: a .gguf file, a folder, an alias, a pulled hub name, or random:NAME.

    Reads headers only; weights are mapped. Raises NotFound for a model that is not here, CheckpointError for one that is not
    sound and UnsupportedModel for a kind that redline does not run.
    """
    if name.startswith(random.PREFIX):
        return random.RandomCheckpoint(name.removeprefix(random.PREFIX))
    path = store.resolve(name, revision=revision)
    return open_path(path, None if store.local_path(name) else name)


def open_path(path: Path, name: str | None = None) -> Checkpoint:
    """The checkpoint in a .gguf file or a Hugging Face style folder; `name` is what to call it."""
    if path.is_dir():
        return FolderCheckpoint(path, name)
    return GgufCheckpoint(path, name)


def tokenizer_for(checkpoint: Checkpoint, source: str | None = None) -> Tokenizer:
    """The checkpoint's own tokenizer, or the one in `source`: a folder, or a tokenizer.json."""
    if source is None:
        return checkpoint.tokenizer()
    from redline.tokenizer import Tokenizer

    path = Path(source).expanduser()
    return Tokenizer.from_folder(path.parent if path.is_file() else path)
