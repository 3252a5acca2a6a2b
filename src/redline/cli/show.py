"""`redline show MODEL`: what a model is, from its headers: shape, formats, tokenizer, generation defaults, template.

Open `command`, then `describe`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from typing import Any

import click

from redline import checkpoint as checkpoints
from redline.checkpoint import Checkpoint
from redline.cli.arguments import JSON, MODEL
from redline.formats import FORMATS
from redline.shapes import ModelShape


@click.command("show")
@MODEL
@click.option("--revision", default=None, help="Branch, tag or commit of a hub model.")
@click.option("--template", "only_template", is_flag=True, help="Print the chat template and nothing else.")
@JSON
def command(model: str, revision: str | None, only_template: bool, as_json: bool) -> None:
    """Show what a model is: shape, formats, tokenizer, defaults, template. Reads headers only, loads no weights."""
    opened = checkpoints.open(model, revision=revision)
    if only_template:
        click.echo(opened.chat_template or "", nl=False)
        return
    document = describe(opened)
    click.echo(json.dumps(document, indent=1) if as_json else text(document, opened.shape))


def describe(opened: Checkpoint) -> dict[str, Any]:
    """Everything the headers say, JSON-able. Bytes are of the weights as they lie in the file."""
    weights: Counter[str] = Counter()
    tensors = 0
    for packed in opened.arrays():
        weights[packed.format] += math.prod(packed.shape)
        tensors += 1
    tokenizer = opened.tokenizer()
    return {
        "name": opened.name,
        "family": opened.shape.family,
        "parameters": sum(weights.values()),
        "tensors": tensors,
        "file_bytes": opened.file_bytes,
        "stored_dtype": opened.stored_dtype,
        "formats": {name: {"weights": count, "bytes": FORMATS[name].nbytes(count)} for name, count in weights.most_common()},
        "shape": dataclasses.asdict(opened.shape),
        "tokenizer": {"vocab_size": tokenizer.vocab_size, "bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id},
        "generation": dataclasses.asdict(opened.generation),
        "chat_template": opened.chat_template,
    }


def text(document: dict[str, Any], shape: ModelShape) -> str:
    """The document as a person reads it."""
    formats = ", ".join(f"{name} {entry['weights'] / 1e6:.1f} M" for name, entry in document["formats"].items())
    defaults = ", ".join(f"{k} {v}" for k, v in document["generation"].items() if v is not None and k != "eos_ids")
    template = document["chat_template"]
    rows = [
        ("model", f"{document['name']} ({document['family']})"),
        (
            "weights",
            f"{document['parameters'] / 1e6:.1f} M in {document['tensors']} tensors, {document['file_bytes'] / 1e6:.1f} MB",
        ),
        ("formats", formats),
        *_shape_rows(shape),
        ("tokenizer", "vocabulary {vocab_size}, begin {bos_id}, end {eos_id}".format(**document["tokenizer"])),
        ("ends with", ", ".join(map(str, document["generation"]["eos_ids"])) or "no token"),
        ("defaults", defaults or "none"),
        ("template", f"{len(template)} characters (redline show --template prints it)" if template else "none: a base model"),
    ]
    return "\n".join(f"{name:<11} {value}" for name, value in rows)


def _shape_rows(shape: ModelShape) -> list[tuple[str, str]]:
    heads = f"{shape.num_heads} heads of {shape.head_size}, {shape.num_kv_heads} of them for keys and values"
    rows = [
        ("layers", f"{shape.num_layers}, {shape.hidden_size} wide, {shape.intermediate_size} in the feed-forward part"),
        ("attention", heads),
        ("context", f"{shape.max_position} tokens"),
    ]
    if shape.sliding_window:
        sliding = sum(map(bool, map(shape.window, range(shape.num_layers))))
        rows.append(("window", f"{shape.sliding_window} tokens in {sliding} of {shape.num_layers} layers"))
    if shape.moe is not None:
        rows.append(("experts", f"{shape.moe.experts_per_token} of {shape.moe.num_experts} for each token"))
    return rows
