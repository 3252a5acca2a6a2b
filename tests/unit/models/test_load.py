"""Loading: every tensor is wanted, comes once and fits, or the error names it. Random models load and run."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from paging import PagedSequences, whole
from redline import checkpoint
from redline.checkpoint import Packed
from redline.errors import CheckpointError, UnsupportedModel
from redline.models.load import load
from redline.models.registry import Model, build
from redline.shapes import KNOWN, ModelShape, known

TINY = sorted(name for name in KNOWN if name.startswith("tiny-"))


class FakeCheckpoint:
    """The tensors of a `random:` model with some taken out, put in or changed."""

    name = "fake"

    def __init__(self, shape: ModelShape, known_name: str = "tiny-llama"):
        self.shape = shape
        self.tensors = list(checkpoint.open(f"random:{known_name}").arrays())

    def arrays(self) -> Iterator[Packed]:
        return iter(self.tensors)


def _build(shape: ModelShape) -> Model:
    return build(shape, torch.float32, "cpu", max_len=32)


def _random(name: str, shape: tuple[int, ...]) -> Packed:
    return Packed(name, "random", shape, np.empty(0, np.uint8))


def _load(source: FakeCheckpoint) -> None:
    load(_build(source.shape), source)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", TINY)
def test_random_models_of_every_family_load_and_give_finite_logits(name: str) -> None:
    """Twice the same: a random model is a function of its name and the seed."""
    logits = []
    for seed in (0, 0, 1):
        opened = checkpoint.open(f"random:{name}")
        model = _build(opened.shape)
        shares: list[float] = []
        load(model, opened, shares.append, seed=seed)
        assert shares == sorted(shares) and shares[-1] == pytest.approx(1.0)
        logits.append(torch.cat(PagedSequences(model, [[1, 2, 3], [511]]).run(whole([[1, 2, 3], [511]]))))
    assert logits[0].isfinite().all() and logits[0].shape == (4, 512)
    assert torch.equal(logits[0], logits[1]) and not torch.equal(logits[0], logits[2])


def test_several_threads_load_what_one_does_and_leave_torch_its_threads() -> None:
    """A tensor a thread, with one of torch's in each: what a lane says of itself holds nowhere else afterwards."""
    opened, models = checkpoint.open("random:tiny-qwen2"), []
    try:
        for num_threads in (1, 3):
            torch.set_num_threads(num_threads)
            models.append(_build(opened.shape))
            load(models[-1], opened, seed=2)
            with ThreadPoolExecutor(1) as later:
                assert torch.get_num_threads() == later.submit(torch.get_num_threads).result() == num_threads
    finally:
        torch.set_num_threads(1)
    for (name, ours), (_, theirs) in zip(models[0].slots(), models[1].slots(), strict=True):
        assert torch.equal(ours.target, theirs.target), name


def test_a_tensor_that_cannot_be_read_ends_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its own error, and without the tensors that nobody had begun."""
    begun: list[str] = []

    def unpack_into(packed: Packed, out: torch.Tensor, *, seed: int) -> None:
        begun.append(packed.name)
        if len(begun) > 1:
            time.sleep(0.2)  # time enough to hear of the first
        raise UnsupportedModel(f"format {packed.format} cannot be unpacked")

    monkeypatch.setattr("redline.models.load.unpack_into", unpack_into)
    source = FakeCheckpoint(known("tiny-llama"))
    with pytest.raises(UnsupportedModel, match="format random"):
        _load(source)
    assert len(begun) <= 2 < len(source.tensors) and torch.get_num_threads() == 1


def test_a_missing_tensor_is_named() -> None:
    source = FakeCheckpoint(known("tiny-llama"))
    gone = [source.tensors.pop(9).name, source.tensors.pop(9).name]
    with pytest.raises(CheckpointError, match=rf"fake lacks the tensor {gone[0]} and 1 more"):
        _load(source)


def test_a_left_over_tensor_is_named() -> None:
    source = FakeCheckpoint(known("tiny-llama"))
    source.tensors.append(_random("model.layers.2.input_layernorm.weight", (128,)))
    with pytest.raises(CheckpointError, match=r"model\.layers\.2\.input_layernorm\.weight, which belongs to no part of a llama"):
        _load(source)


def test_a_tensor_that_comes_twice_is_named() -> None:
    source = FakeCheckpoint(known("tiny-llama"))
    source.tensors.append(source.tensors[4])
    with pytest.raises(CheckpointError, match=rf"{source.tensors[4].name} twice"):
        _load(source)


def test_a_tensor_of_another_shape_is_named_with_both_shapes() -> None:
    source = FakeCheckpoint(dataclasses.replace(known("tiny-llama"), intermediate_size=192))
    with pytest.raises(
        CheckpointError, match=r"gate_proj\.weight of fake has the shape \(256, 128\), the model needs \(192, 128\)"
    ):
        _load(source)


def test_what_a_sound_file_may_hold_besides_is_left_out() -> None:
    """Rotary tables of old files, and the head of a model that ties it."""
    source = FakeCheckpoint(known("tiny-llama"))
    source.tensors.append(_random("model.layers.0.self_attn.rotary_emb.inv_freq", (32,)))
    source.tensors.append(_random("lm_head.weight", (512, 128)))
    _load(source)


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_a_gemma3_file_with_a_vision_tower_loads_its_text_model(prefix: str) -> None:
    source = FakeCheckpoint(known("tiny-gemma3"), "tiny-gemma3")
    source.tensors = [dataclasses.replace(t, name=t.name.replace("model.", prefix, 1)) for t in source.tensors]
    source.tensors.append(_random("vision_tower.vision_model.post_layernorm.weight", (8,)))
    source.tensors.append(_random("model.multi_modal_projector.mm_soft_emb_norm.weight", (8,)))
    _load(source)


def test_a_family_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedModel, match="'rwkv'"):
        _build(dataclasses.replace(known("tiny-llama"), family="rwkv"))
