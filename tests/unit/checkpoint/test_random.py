"""Random checkpoints list exactly the tensors that transformers saves for the same configuration."""

from __future__ import annotations

import dataclasses

import pytest

from redline import shapes
from redline.checkpoint import random
from redline.errors import UnsupportedModel

TINY = [name for name in shapes.KNOWN if name.startswith("tiny-")]


@pytest.mark.parametrize("name", TINY)
def test_lists_the_tensors_of_a_hugging_face_file(name: str, tmp_path) -> None:
    import safetensors
    import transformers

    config = dict(shapes.KNOWN[name])
    kind = transformers.AutoConfig.for_model(config.pop("model_type"), **config)
    kind.num_hidden_layers = 2
    if getattr(kind, "layer_types", None):
        kind.layer_types = kind.layer_types[:2]
    transformers.AutoModelForCausalLM.from_config(kind).save_pretrained(tmp_path)
    with safetensors.safe_open(tmp_path / "model.safetensors", "np") as file:
        saved = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
    shape = dataclasses.replace(shapes.known(name), num_layers=2)
    assert dict(random.tensors(shape)) == saved


def test_a_large_model_is_listed_without_any_memory() -> None:
    checkpoint = random.RandomCheckpoint("llama-3.1-405b")
    assert checkpoint.name == "random:llama-3.1-405b"
    assert sum(packed.elements for packed in checkpoint.arrays()) == 405_853_388_800
    assert all(packed.format == "random" and packed.nbytes == 0 and packed.data.size == 0 for packed in checkpoint.arrays())


def test_norm_weights_are_stored_as_used() -> None:
    assert random.RandomCheckpoint("gemma-3-270m").shape.norm_offset == 0.0


def test_an_unknown_shape_names_its_neighbours() -> None:
    with pytest.raises(UnsupportedModel) as caught:
        random.RandomCheckpoint("lama-3.1-8b")
    assert "llama-3.1-8b" in caught.value.hint
