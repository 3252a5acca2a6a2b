"""A Hugging Face style folder as a checkpoint: config.json, one safetensors file or shards with an index, and the texts.

Weights keep their names, with four exceptions that are not part of a language model's own: the prefix of a model that
wraps it (Gemma 3 with vision), what belongs to the wrapper, the prefix that a model without a head lacks, and buffers or
copies that the shape makes redundant.
The bytes of a file are `safetensors`'s business. Open `FolderCheckpoint` first.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redline import shapes
from redline.checkpoint import embedding, safetensors
from redline.checkpoint.base import GenerationDefaults, dominant_format
from redline.checkpoint.json_file import read_bytes, read_object
from redline.checkpoint.packed import Packed, count
from redline.errors import CheckpointError, UnsupportedModel

if TYPE_CHECKING:
    from redline.tokenizer import Tokenizer

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
TEMPLATE = "chat_template.jinja"

_WRAPPED = re.compile(r"(?:model\.)?language_model\.(?:model\.)?")  # the language model within a model with vision
_WRAPPER = re.compile(r"(?:model\.)?(?:vision_tower|multi_modal_projector)\.")
_BARE = re.compile(r"embed_tokens\.|layers\.\d+\.|norm\.")  # a model without a head, as embedding models are saved
_BUFFER = re.compile(r".*\.rotary_emb\.inv_freq$")  # computed from the config; old files carry it

_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


class FolderCheckpoint:
    """One folder, opened. Raises CheckpointError or UnsupportedModel at once for a folder that redline cannot use."""

    def __init__(self, path: Path, name: str | None = None):
        self.path = path
        self.name = name or path.resolve().name
        config = read_object(path / "config.json")
        _refuse_quantized(config)
        self.shape = shapes.from_hf(config)
        self._files = _open_files(path)
        kept = [file.entries[own] for file in self._files for own in file.entries if self._hf_name(own)]
        if not kept:
            raise CheckpointError(f"{path} holds no tensor of a language model")
        formats = [(entry.format.name, count(entry.shape)) for entry in kept if entry.format]
        self.stored_dtype = dominant_format(formats) if formats else kept[0].dtype.lower()
        self.file_bytes = sum(entry.nbytes for entry in kept)
        texts = _optional(path / "tokenizer_config.json")
        self.chat_template = _chat_template(path, texts)
        self.template_tokens = _template_tokens({**_optional(path / "special_tokens_map.json"), **texts})
        self.generation = _generation(config, _optional(path / "generation_config.json"))
        self.embedding = embedding.of_folder(path, config)

    def arrays(self) -> Iterator[Packed]:
        for file in self._files:
            for own in file.entries:
                name = self._hf_name(own)
                if name is not None:
                    yield dataclasses.replace(file.packed(own), name=name)

    def tokenizer(self) -> Tokenizer:
        from redline.tokenizer import Tokenizer

        return Tokenizer.from_folder(self.path)

    def _hf_name(self, own: str) -> str | None:
        """The name that the loader knows a tensor by, or None for one that this model does not load."""
        if _WRAPPER.match(own) or _BUFFER.match(own):
            return None
        wrapped = _WRAPPED.match(own)
        rest = own[wrapped.end() :] if wrapped else own
        bare = wrapped is not None or _BARE.match(own) is not None
        name = f"model.{rest}" if bare and not rest.startswith("lm_head.") else rest
        return None if self.shape.tie_embeddings and name == "lm_head.weight" else name


def is_complete(folder: Path) -> bool:
    """True where the configuration and every file of weights that the folder names are there."""
    try:
        return (folder / "config.json").is_file() and all(file.is_file() for file in weight_files(folder))
    except CheckpointError:
        return False


def weight_files(folder: Path) -> list[Path]:
    """The files of weights that a folder names, in order, there or not. Raises CheckpointError where it names none."""
    return [folder / name for name in _file_names(folder)]


def _refuse_quantized(config: dict[str, Any]) -> None:
    quantization = config.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method", "unknown") if isinstance(quantization, dict) else quantization
        raise UnsupportedModel(f"the folder is quantised with {method!r}, which redline does not load", hint="use a GGUF file")


def _file_names(folder: Path) -> list[str]:
    """Names of the weight files, in order. Raises CheckpointError where there are none or a name leaves the folder."""
    if not (folder / INDEX).is_file():
        if (folder / SINGLE).is_file():
            return [SINGLE]
        others = sorted(file.name for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".safetensors"))
        raise CheckpointError(
            f"{folder} has neither {SINGLE} nor {INDEX}" + (f", only {', '.join(others[:4])}" if others else ""),
            hint="redline loads safetensors and GGUF, never pickled weights",
        )
    return sorted(set(_weight_map(folder).values()))


def _weight_map(folder: Path) -> dict[str, str]:
    """The index's map of tensor name to file name, checked."""
    listed = read_object(folder / INDEX).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise CheckpointError(f"{INDEX} has no weight_map")
    for tensor, name in listed.items():
        if not isinstance(name, str) or not name.endswith(".safetensors") or Path(name).name != name or not name.isprintable():
            raise CheckpointError(f"{INDEX}: tensor {tensor} lies in {name!r}, which is not a safetensors file of this folder")
    return listed


def _open_files(folder: Path) -> list[safetensors.SafetensorsFile]:
    """Every weight file, opened, after a check that the index and the files agree."""
    names = _file_names(folder)
    if names == [SINGLE] and not (folder / INDEX).is_file():
        return [safetensors.read_file(folder / SINGLE)]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder} lacks {missing[0]}, one of {len(names)} files of weights", hint="pull the model again")
    files = {name: safetensors.read_file(folder / name) for name in names}
    listed = _weight_map(folder)
    for tensor, name in listed.items():
        if tensor not in files[name].entries:
            raise CheckpointError(f"{INDEX} places tensor {tensor} in {name}, which does not hold it")
    for name, file in files.items():
        for tensor in file.entries:
            if listed.get(tensor) != name:
                raise CheckpointError(f"{name} holds tensor {tensor}, which {INDEX} places in {listed.get(tensor, 'no file')}")
    return list(files.values())


def _optional(path: Path) -> dict[str, Any]:
    return read_object(path) if path.is_file() else {}


def _chat_template(folder: Path, texts: dict[str, Any]) -> str | None:
    """chat_template.jinja, or what tokenizer_config.json has: a text, or a list of named ones with a `default`."""
    if (folder / TEMPLATE).is_file():
        try:
            return read_bytes(folder / TEMPLATE).decode()
        except UnicodeDecodeError:
            raise CheckpointError(f"{TEMPLATE} is not UTF-8") from None
    template = texts.get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _template_tokens(texts: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key in _TOKENS:
        value = texts.get(key)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            found[key] = text
    return found


def _generation(config: dict[str, Any], generation: dict[str, Any]) -> GenerationDefaults:
    """generation_config.json; end ids fall back to config.json. A value of the wrong type counts as not stated."""
    ends = generation.get("eos_token_id", config.get("eos_token_id"))
    listed = ends if isinstance(ends, list) else [ends]
    top_k = generation.get("top_k")
    return GenerationDefaults(
        eos_ids=tuple(dict.fromkeys(token for token in listed if type(token) is int and token >= 0)),
        top_k=top_k if type(top_k) is int and top_k >= 0 else None,
        **{key: _number(generation.get(key)) for key in ("temperature", "top_p", "min_p", "repetition_penalty")},
    )


def _number(value: Any) -> float | None:
    fits = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
    return float(value) if fits else None
