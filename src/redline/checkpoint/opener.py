"""From what a user calls a model to an opened checkpoint. Fetches nothing: a model that is not here is an error.

Open `open` first; where models lie is `store`'s business, what is in them the readers'.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from redline.checkpoint import random, store
from redline.checkpoint.aliases import ALIASES, Alias
from redline.checkpoint.base import Checkpoint
from redline.checkpoint.folder import FolderCheckpoint
from redline.checkpoint.gguf import GgufCheckpoint
from redline.errors import ConfigError, NotFound

if TYPE_CHECKING:
    from redline.tokenizer import Tokenizer


def open(name: str, *, revision: str | None = None) -> Checkpoint:
    """The checkpoint that `name` means: a .gguf file, a folder, an alias, a pulled hub name, or random:NAME.

    Reads headers only; weights are mapped. Raises NotFound for a model that is not here, CheckpointError for one that is not
    sound and UnsupportedModel for a kind that redline does not run.
    """
    if name.startswith(random.PREFIX):
        if revision is not None:
            raise ConfigError(f"{name} has no revisions", hint="leave --revision out", param="revision")
        return random.RandomCheckpoint(name.removeprefix(random.PREFIX))
    path = store.resolve(name, revision=revision)
    if store.local_path(name) is not None:
        return open_path(path)
    return _open_alias(path, ALIASES[name]) if name in ALIASES else open_path(path, name)


def open_path(path: Path, name: str | None = None) -> Checkpoint:
    """The checkpoint in a .gguf file or a Hugging Face style folder; `name` is what to call it."""
    if path.is_dir():
        return FolderCheckpoint(path, name)
    return GgufCheckpoint(path, name)


def _open_alias(path: Path, alias: Alias) -> Checkpoint:
    """The file of an alias, with its makers' defaults where the file states none."""
    opened = GgufCheckpoint(path, alias.name)
    stated = opened.generation
    opened.generation = dataclasses.replace(
        stated,
        temperature=alias.temperature if stated.temperature is None else stated.temperature,
        top_p=alias.top_p if stated.top_p is None else stated.top_p,
    )
    return opened


def tokenizer_for(checkpoint: Checkpoint, source: str | None = None) -> Tokenizer:
    """The checkpoint's own tokenizer, or the one in `source`: a folder, or a tokenizer.json. Raises NotFound."""
    if source is None:
        return checkpoint.tokenizer()
    from redline.tokenizer import Tokenizer

    path = store.local_path(source)
    if path is None or (path.is_file() and path.name != "tokenizer.json"):
        what = f"there is no file or folder {source!r}" if path is None else f"{source} is not a tokenizer.json"
        raise NotFound(what, hint="give --tokenizer a tokenizer.json or the folder that holds one", param="tokenizer")
    return Tokenizer.from_folder(path.parent if path.is_file() else path)
