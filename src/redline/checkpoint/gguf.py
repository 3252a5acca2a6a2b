"""A GGUF file as a checkpoint: Hugging Face names, rows in Hugging Face's order, everything else as the file has it.

Weights stay packed and mapped. Rotary rows are put back as a strided view, stacks of experts are cut into views, rope
factors move into the shape. The bytes of the header are `gguf_header`'s, the names `gguf_names`'s. Open `GgufCheckpoint` first.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from redline import shapes
from redline.checkpoint import embedding, gguf_names
from redline.checkpoint.base import GenerationDefaults, dominant_format
from redline.checkpoint.gguf_header import TensorEntry, read_header
from redline.checkpoint.packed import Packed, Source, count, map_file, view
from redline.errors import CheckpointError, UnsupportedModel
from redline.shapes import ModelShape

if TYPE_CHECKING:
    from redline.tokenizer import Tokenizer

_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
_TEMPLATE_KEYS = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
_CONTROL = 3  # token type of texts that a model never writes as such

# Converters often record only the end of the document. Where a vocabulary has one of these as a control token, it ends a turn.
_TURN_ENDS = frozenset({"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>"})


class GgufCheckpoint:
    """One GGUF file, opened. Raises CheckpointError or UnsupportedModel at once for a file that redline cannot use."""

    def __init__(self, path: Path, name: str | None = None):
        self.path = path
        self.name = name or path.stem
        self._buffer = map_file(path)
        header = read_header(self._buffer, path.name)
        self._metadata = header.metadata
        self._entries = {entry.name: entry for entry in header.tensors}
        _refuse_part(path, header.metadata, header.tensors)
        self.shape = self._shape()
        weights = [entry for entry in header.tensors if entry.name != gguf_names.ROPE_FACTORS]
        self.stored_dtype = dominant_format((entry.format.name, count(entry.shape)) for entry in weights)
        self.file_bytes = sum(entry.nbytes for entry in weights)
        template = header.metadata.get("tokenizer.chat_template")
        self.chat_template: str | None = template if isinstance(template, str) else None
        self.template_tokens = _template_tokens(header.metadata)
        self.generation = GenerationDefaults(eos_ids=_end_ids(header.metadata))
        self.embedding = embedding.of_gguf(header.metadata)

    def arrays(self) -> Iterator[Packed]:
        family = self.shape.family
        for entry in self._entries.values():
            if entry.name == gguf_names.ROPE_FACTORS:
                continue
            template = gguf_names.expert_name(entry.name, family)
            if template is not None:
                yield from self._experts(entry, template)
                continue
            data = view(self._buffer, entry.offset, entry.format, entry.shape)
            source: Source | None = Source(self.path, entry.offset)
            if gguf_names.is_permuted(entry.name, self._metadata["general.architecture"]):
                data = gguf_names.hf_rows(entry.name, data, entry.shape[0], self.shape.head_size)
                source = None
            yield Packed(gguf_names.hf_name(entry.name, family), entry.format.name, entry.shape, data, source)

    def tokenizer(self) -> Tokenizer:
        from redline.tokenizer import Tokenizer

        return Tokenizer.from_gguf(self._metadata)

    def _experts(self, entry: TensorEntry, template: str) -> Iterator[Packed]:
        """The experts of one stack [E, N, K], each as a tensor [N, K] of its own."""
        experts = self.shape.moe.num_experts if self.shape.moe else 0
        if len(entry.shape) != 3 or entry.shape[0] != experts:
            raise CheckpointError(
                f"{self.path.name}: tensor {entry.name} has shape {entry.shape}, not a stack of {experts} experts"
            )
        stack = view(self._buffer, entry.offset, entry.format, entry.shape)
        for expert in range(experts):
            source = Source(self.path, entry.offset + expert * stack[expert].nbytes)
            yield Packed(template.format(expert), entry.format.name, entry.shape[1:], stack[expert], source)

    def _shape(self) -> ModelShape:
        tensors = {entry.name: entry.shape for entry in self._entries.values()}
        return shapes.from_gguf(self._metadata, tensors, self._rope_factors())

    def _rope_factors(self) -> list[float]:
        """Divisors of the inverse frequencies, one per pair; empty where the file has none."""
        entry = self._entries.get(gguf_names.ROPE_FACTORS)
        if entry is None:
            return []
        if entry.format.name != "f32" or len(entry.shape) != 1:
            raise CheckpointError(f"{self.path.name}: {entry.name} must be a row of f32, not {entry.format.name} {entry.shape}")
        factors = view(self._buffer, entry.offset, entry.format, entry.shape)
        if not (np.isfinite(factors) & (factors > 0)).all():
            raise CheckpointError(f"{self.path.name}: {entry.name} holds a factor that is not a positive number")
        return [float(factor) for factor in factors]


def _refuse_part(path: Path, metadata: dict[str, Any], tensors: tuple[TensorEntry, ...]) -> None:
    parts = metadata.get("split.count", 1)
    if parts not in (0, 1):
        raise UnsupportedModel(f"{path.name} is one of {parts} parts of a model", hint="join the parts with gguf-split --merge")
    if not tensors:
        raise CheckpointError(f"{path.name} holds no tensors", hint="it is a vocabulary alone, or not a model")


def _end_ids(metadata: dict[str, Any]) -> tuple[int, ...]:
    """Ids that end an answer: those the metadata names, then control tokens that are known to end a turn."""
    tokens, kinds = _list(metadata, "tokenizer.ggml.tokens"), _list(metadata, "tokenizer.ggml.token_type")
    named = [metadata.get(f"tokenizer.ggml.{key}") for key in _END_KEYS]
    ids = [token for token in named if type(token) is int and 0 <= token < len(tokens)]
    pairs = enumerate(zip(tokens, kinds, strict=False))  # a file that lies about its lists has no ends to add
    ids += [index for index, (text, kind) in pairs if kind == _CONTROL and isinstance(text, str) and text in _TURN_ENDS]
    return tuple(dict.fromkeys(ids))


def _template_tokens(metadata: dict[str, Any]) -> dict[str, str]:
    tokens = _list(metadata, "tokenizer.ggml.tokens")
    found: dict[str, str] = {}
    for field, key in _TEMPLATE_KEYS.items():
        token = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if type(token) is int and 0 <= token < len(tokens) and isinstance(tokens[token], str):
            found[field] = tokens[token]
    return found


def _list(metadata: dict[str, Any], key: str) -> list[Any]:
    value = metadata.get(key)
    return value if isinstance(value, list) else []
