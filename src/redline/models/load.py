"""Fills a model's weights from a checkpoint, and refuses one that does not match tensor for tensor.

Tensors that a sound file may hold and that are left out: rotary tables of old files, the head of a model that ties it to
the embedding, and what the family's file lists (Gemma 3: the vision tower). Everything else must be wanted, once, in the
expected shape, and nothing may be missing. Knows nothing of file formats or of number formats. Open `load` first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from redline.checkpoint.base import Checkpoint
from redline.checkpoint.packed import Packed
from redline.errors import CheckpointError
from redline.layers.weights import Slot
from redline.models import stream
from redline.models.registry import Model, family_of
from redline.quant import unpack, unpack_into


def load(model: Model, checkpoint: Checkpoint, progress: Callable[[float], None] | None = None, *, seed: int = 0) -> None:
    """Fill every weight of `model` from `checkpoint.arrays()`. `progress` is told the share that is done, 0 to 1;
    `seed` is that of random weights.

    On a GPU files are streamed (`stream.py`), and everything has arrived when this returns; on a CPU as many tensors are decoded
    at a time as torch has threads here. Raises CheckpointError naming a tensor that is missing, left over, there twice or of
    another shape.
    """
    slots = dict(model.slots())
    total = sum(slot.target.numel() for slot in slots.values())
    device = next(iter(slots.values())).target.device
    done = 0

    def came(weights: int) -> None:
        nonlocal done
        done += weights
        if progress is not None:
            progress(done / total)

    matched = _matched(model, checkpoint, slots)
    if device.type == "cuda":
        for slot, packed in _streamed(list(matched), device, came):
            _fill(slot, packed, seed)
            came(slot.target.numel())
    else:
        _decode_side_by_side(matched, seed, came)


def _matched(model: Model, checkpoint: Checkpoint, slots: dict[str, Slot]) -> Iterator[tuple[Slot, Packed]]:
    """Every tensor that the model wants with its slot, in the checkpoint's order; refuses what does not match."""
    family = family_of(model.shape)
    missing = dict.fromkeys(slots)
    for packed in checkpoint.arrays():
        name = family.name(packed.name)
        slot = slots.get(name)
        if slot is None:
            if family.ignores(packed.name) or (model.shape.tie_embeddings and name == "lm_head.weight"):
                continue
            raise CheckpointError(
                f"{checkpoint.name} holds the tensor {packed.name}, which belongs to no part of a {model.shape.family} model"
            )
        if name not in missing:
            raise CheckpointError(f"{checkpoint.name} holds the tensor {packed.name} twice")
        del missing[name]
        if tuple(packed.shape) != slot.shape:
            raise CheckpointError(
                f"tensor {packed.name} of {checkpoint.name} has the shape {tuple(packed.shape)}, the model needs {slot.shape}",
                hint="the file and its config do not belong together",
            )
        yield slot, packed
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(f"{checkpoint.name} lacks the tensor {next(iter(missing))}{more}")


def _streamed(matched: list[tuple[Slot, Packed]], device: torch.device, came: Callable[[int], None]) -> list[tuple[Slot, Packed]]:
    """Fill what lies in files; the rest, which is made on the device, is returned."""
    made = [(slot, packed) for slot, packed in matched if packed.format == "random"]
    stored = [(slot, packed) for slot, packed in matched if packed.format != "random"]
    if stored:
        tensors = [(slot, packed) for slot, packed in stored if stream.can_stream(slot, packed)]
        others = [(slot, packed) for slot, packed in stored if not stream.can_stream(slot, packed)]
        jobs = [(slot.target.numel(), functools.partial(_fill, slot, packed, 0)) for slot, packed in others]
        stream.fill(tensors, jobs, device, came)
        torch.cuda.empty_cache()  # the lanes' scratch, which belongs to streams that nobody uses any more
    return made


def _decode_side_by_side(matched: Iterable[tuple[Slot, Packed]], seed: int, came: Callable[[int], None]) -> None:
    """Fill weights in the memory of the host, a tensor a thread; torch's own threads would wait for each other in every piece."""
    num_threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(num_threads, "redline-load", torch.set_num_threads, (1,)) as lanes:
            try:
                for slot, filled in [(slot, lanes.submit(_fill, slot, packed, seed)) for slot, packed in matched]:
                    filled.result()
                    came(slot.target.numel())
            except BaseException:
                lanes.shutdown(cancel_futures=True)
                raise
    finally:
        torch.set_num_threads(num_threads)  # what a lane says of itself holds for threads that are made after it, too


@torch.inference_mode()  # of this thread: the tensors may have been made under it
def _fill(slot: Slot, packed: Packed, seed: int) -> None:
    if tuple(slot.target.shape) == slot.shape and slot.target.is_contiguous():
        unpack_into(packed, slot.target, seed=seed)
    else:
        slot.target.copy_(slot.part(unpack(packed, slot.target.dtype, slot.target.device, seed=seed)))
    if slot.offset:
        slot.target.add_(slot.offset)
