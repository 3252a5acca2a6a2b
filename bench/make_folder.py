"""Writes a `random:` model as a Hugging Face folder: config.json, shards of safetensors with their index, a tokenizer.

    python bench/make_folder.py llama-3.1-8b /models/llama-8b --device cuda:0

The start of a real model can then be measured without a download: the folder has the size, the names and the types of one.
Its weights are those that `random:NAME` has on the same kind of device with the same seed, so both give the same tokens.
The last line of standard output is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import tokenizers
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from redline import checkpoint, shapes
from redline.checkpoint.folder import INDEX, TEMPLATE
from redline.checkpoint.random import PREFIX
from redline.checkpoint.random import TEMPLATE as TEMPLATE_TEXT
from redline.quant import unpack
from redline.tokenizer import Tokenizer

SHARD_BYTES = 4 << 30

Shard = dict[str, torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a random: model as a Hugging Face folder.")
    parser.add_argument("name", help="a known shape, with or without random: before it")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--device", default="cpu", help="where the weights are made: cpu or cuda:N")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    began = time.monotonic()
    nbytes = write(given.name, given.folder, getattr(torch, given.dtype), given.device, seed=given.seed)
    seconds = time.monotonic() - began
    print(json.dumps({"folder": str(given.folder), "bytes": nbytes, "seconds": round(seconds, 2)}))


def write(
    name: str, folder: Path, dtype: torch.dtype, device: str = "cpu", *, seed: int = 0, shard_bytes: int = SHARD_BYTES
) -> int:
    """Write the known shape `name` to `folder`, which may be there already, and return the bytes of its weights."""
    name = name.removeprefix(PREFIX)
    folder.mkdir(parents=True, exist_ok=True)
    config = {**shapes.KNOWN[name], "torch_dtype": str(dtype).removeprefix("torch.")}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / TEMPLATE).write_text(TEMPLATE_TEXT)
    _write_tokenizer(folder, shapes.known(name).vocab_size)
    shards, total = [], 0
    for number, shard in enumerate(_shards(name, dtype, device, seed, shard_bytes), 1):
        file = folder / f"part-{number:05}.safetensors"
        save_file(shard, file, metadata={"format": "pt"})
        shards.append((file, list(shard)))
        total += sum(tensor.nbytes for tensor in shard.values())
    weight_map = {}
    for number, (file, names) in enumerate(shards, 1):
        final = folder / f"model-{number:05}-of-{len(shards):05}.safetensors"
        file.rename(final)
        weight_map |= dict.fromkeys(names, final.name)
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2))
    return total


def _shards(name: str, dtype: torch.dtype, device: str, seed: int, most: int) -> Iterator[Shard]:
    """The tensors in the order of the checkpoint, as many together as fit into `most` bytes."""
    norm_offset = shapes.known(name).norm_offset  # the files of such a family lack what is added at load
    shard: Shard = {}
    for packed in checkpoint.open(PREFIX + name).arrays():
        tensor = unpack(packed, dtype, device, seed=seed)
        if norm_offset and packed.name.endswith("norm.weight"):
            tensor -= norm_offset
        if shard and sum(other.nbytes for other in shard.values()) + tensor.nbytes > most:
            yield shard
            shard = {}
        shard[packed.name] = tensor.cpu()
    yield shard


def _write_tokenizer(folder: Path, vocab_size: int) -> None:
    """The byte tokenizer of random weights as a tokenizer.json with a piece for every id: as long to read as a real one."""
    plain = Tokenizer.bytes(vocab_size)
    pieces = {plain.piece(id_): id_ for id_ in range(vocab_size)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=pieces, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    named = {"bos_token": plain.piece(256), "eos_token": plain.piece(257)}
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in named.values()])
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(named))


if __name__ == "__main__":
    main()
