"""Streamed weights are the loaded ones, however reads and blocks fall, whatever the type, the cut and the file.

The lanes run here without a device's streams: what they read, where they put it and how they fail is the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import threading
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from model_files import llama_gguf, packed_rows
from redline import checkpoint, log
from redline.checkpoint.packed import Packed, Source
from redline.errors import CheckpointError
from redline.layers.weights import Slot
from redline.models import stream
from redline.models.load import _matched, _streamed, load
from redline.models.registry import build
from redline.models.stream import Read, can_stream, fill, plan
from redline.parallel.ranks import Ranks
from redline.quant import unpack
from redline.shapes import KNOWN

CPU = torch.device("cpu")
DTYPES = {"f32": np.float32, "f16": np.float16}


@pytest.fixture(params=[64, 1000, 1 << 20], ids=lambda size: f"block{size}")
def block_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(stream, "BLOCK_BYTES", request.param)
    monkeypatch.setattr(stream, "_GAP_BYTES", 16)
    return request.param


def _stored(folder: Path, name: str, shape: tuple[int, ...], dtype: type = np.float32) -> Packed:
    """A tensor of random values in a file of its own, behind a few other bytes."""
    values = np.random.default_rng(len(name)).normal(size=shape).astype(dtype)
    file = folder / f"{name}.bin"
    file.write_bytes(b"\0" * 24 + values.tobytes())
    return Packed(name, {4: "f32", 2: "f16"}[values.itemsize], shape, values, Source(file, 24))


def _empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.full(shape, torch.nan, dtype=dtype)


def _fill(*tensors: tuple[Slot, Packed]) -> list[int]:
    came: list[int] = []
    fill(tensors, [], CPU, came.append)
    return came


@pytest.mark.parametrize("wanted", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("stored", DTYPES)
def test_every_type_becomes_the_model_s(stored: str, wanted: torch.dtype, tmp_path: Path, block_bytes: int) -> None:
    matrix, vector = _stored(tmp_path, "m", (37, 5), DTYPES[stored]), _stored(tmp_path, "v", (301,), DTYPES[stored])
    into, row = _empty(37, 5, dtype=wanted), _empty(301, dtype=wanted)
    came = _fill((Slot(into, (37, 5)), matrix), (Slot(row, (301,), offset=1.0), vector))
    assert torch.equal(into, unpack(matrix, wanted)) and torch.equal(row, unpack(vector, wanted).add_(1.0))
    assert sum(came) == 37 * 5 + 301


def test_a_rank_s_share_of_rows_and_of_columns(tmp_path: Path, block_bytes: int) -> None:
    packed = _stored(tmp_path, "w", (30, 12))
    for dtype in (torch.float32, torch.bfloat16):
        whole, rows, columns = unpack(packed, dtype), _empty(10, 12, dtype=dtype), _empty(30, 4, dtype=dtype)
        _fill((Slot(rows, (30, 12), 0, 20), packed), (Slot(columns, (30, 12), 1, 8), packed))
        assert torch.equal(rows, whole[20:]) and torch.equal(columns, whole[:, 8:])


def test_only_a_rank_s_own_rows_are_read(tmp_path: Path) -> None:
    packed = _stored(tmp_path, "w", (30, 12))
    assert packed.source is not None
    (read,) = plan([(Slot(_empty(10, 12), (30, 12), 0, 20), packed, packed.source)])
    assert (read.offset, read.end) == (24 + 20 * 48, 24 + 30 * 48)


def test_a_target_with_gaps_is_filled(tmp_path: Path, block_bytes: int) -> None:
    packed, wide = _stored(tmp_path, "w", (9, 6)), _empty(9, 8)
    _fill((Slot(wide[:, 1:7], (9, 6)), packed))
    assert torch.equal(wide[:, 1:7], unpack(packed, torch.float32)) and wide[:, 0].isnan().all() and wide[:, 7].isnan().all()


@pytest.mark.parametrize("format", ["q4_0", "q4_k", "q6_k", "q8_0"])
def test_blocks_are_decoded_in_pieces(format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_DECODED", 512 * 3)
    block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[format.upper()]]
    blocks = 512 // block
    raw = packed_rows(np.random.default_rng(1), format, 11, blocks, block_bytes)
    (tmp_path / "f").write_bytes(raw.tobytes())
    packed = Packed("w", format, (11, 512), raw, Source(tmp_path / "f", 0))
    for dtype in (torch.float32, torch.bfloat16):
        into = _empty(11, 512, dtype=dtype)
        slot = Slot(into, (11, 512))
        _fill((slot, packed))
        assert torch.equal(into, unpack(packed, dtype))
        assert packed.source is not None
        assert [part.end - part.begin for part in plan([(slot, packed, packed.source)])[0].parts] == [3, 3, 3, 2]


def test_neighbours_share_a_read_and_no_read_is_longer_than_a_block(block_bytes: int) -> None:
    packed = Packed("w", "f32", (40,), np.zeros(40, np.float32))
    offsets = [0, 160, 330, 100_000]  # the second follows at once, the third after ten bytes, the last far away
    sources = [(Slot(_empty(40), (40,)), packed, Source(Path("file"), offset)) for offset in reversed(offsets)]
    reads = plan(sources)
    assert all(read.end - read.offset <= block_bytes for read in reads)
    assert sum(part.nbytes for read in reads for part in read.parts) == 4 * 160
    assert [read.offset for read in reads] == sorted(read.offset for read in reads)
    if block_bytes >= 1000:
        assert [(read.offset, read.end) for read in reads] == [(0, 490), (100_000, 100_160)]


def test_what_lies_in_no_file_row_after_row_is_not_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = _stored(tmp_path, "w", (8, 64))
    slot = Slot(_empty(8, 64), (8, 64))
    assert can_stream(slot, packed)
    assert not can_stream(slot, dataclasses.replace(packed, source=None))
    assert not can_stream(Slot(_empty(0, 64), (0, 64)), dataclasses.replace(packed, shape=(0, 64)))
    monkeypatch.setattr(stream, "BLOCK_BYTES", 255)
    assert not can_stream(slot, packed)


def test_a_file_that_shrank_is_named_and_nothing_runs_on(tmp_path: Path) -> None:
    packed = _stored(tmp_path, "w", (100, 100))
    assert packed.source is not None
    os.truncate(packed.source.path, 20_000)
    with pytest.raises(CheckpointError, match=r"w\.bin became shorter"):
        _fill((Slot(_empty(100, 100), (100, 100)), packed))
    packed.source.path.unlink()
    with pytest.raises(CheckpointError, match=r"cannot read .*w\.bin: No such file"):
        _fill((Slot(_empty(100, 100), (100, 100)), packed))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("redline-load")]


def test_an_error_in_one_lane_ends_the_others(tmp_path: Path) -> None:
    def fails() -> None:
        raise torch.OutOfMemoryError("no")

    did: list[int] = []
    jobs = [(1, fails), *((1, lambda: did.append(1)) for _ in range(1000))]
    with pytest.raises(torch.OutOfMemoryError):
        fill([], jobs, CPU, lambda weights: None)
    assert len(did) <= 1000 and not [thread for thread in threading.enumerate() if thread.name.startswith("redline-load")]


def test_an_interrupt_while_telling_ends_the_lanes(tmp_path: Path) -> None:
    def told(weights: int) -> None:
        raise KeyboardInterrupt

    packed = _stored(tmp_path, "w", (100, 100))
    with pytest.raises(KeyboardInterrupt):
        fill([(Slot(_empty(100, 100), (100, 100)), packed)], [], CPU, told)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("redline-load")]


def _same_as_loaded(path: Path, ranks: Ranks, dtype: torch.dtype) -> list[Read]:
    """Load the checkpoint both ways, compare every parameter, and return the reads of the streamed one."""
    opened = checkpoint.open(str(path))
    plain, streamed = (build(opened.shape, dtype, "cpu", max_len=16, ranks=ranks) for _ in range(2))
    load(plain, opened)
    slots = dict(streamed.slots())
    for slot in slots.values():
        slot.target.fill_(torch.nan)
    matched, came = list(_matched(streamed, opened, slots)), []
    left = _streamed(matched, CPU, came.append)
    assert not left and sum(came) == sum(slot.target.numel() for slot in slots.values())
    for name, slot in plain.slots():
        assert torch.equal(slots[name].target, slot.target), name
    return plan((slot, packed, packed.source) for slot, packed in matched if packed.source and can_stream(slot, packed))


@pytest.mark.parametrize("rank", [None, 0, 1])
@pytest.mark.parametrize("name", ["tiny-qwen2", "tiny-qwen3-moe"])
def test_a_folder_is_loaded_as_it_is_without_lanes(name: str, rank: int | None, tmp_path: Path, block_bytes: int) -> None:
    weights = {packed.name: unpack(packed, torch.float32).numpy() for packed in checkpoint.open(f"random:{name}").arrays()}
    (tmp_path / "config.json").write_text(json.dumps(dict(KNOWN[name])))
    save_file(weights, tmp_path / "model.safetensors")
    reads = _same_as_loaded(tmp_path, Ranks.single() if rank is None else Ranks(rank, 2), torch.bfloat16)
    assert all(read.end - read.offset <= block_bytes for read in reads)


def test_a_gguf_file_with_permuted_rows_is_loaded_as_it_is_without_lanes(tmp_path: Path, block_bytes: int) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(llama_gguf(np.random.default_rng(0)).to_bytes())
    _same_as_loaded(path, Ranks.single(), torch.float32)


class FakeDevice:
    """The parts of `torch.cuda` that a lane uses, in the order of their calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, locks: bool = True) -> None:
        self.calls: list[str] = []
        self.locked: set[int] = set()
        self._locks = locks
        for name in ("Stream", "Event", "cudart", "stream"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))

    cudaError = SimpleNamespace(success=0)  # noqa: N815 (the runtime's own name)

    def Stream(self, device: torch.device) -> FakeDevice:  # noqa: N802
        return self

    def Event(self, blocking: bool) -> FakeEvent:  # noqa: N802
        return FakeEvent(self.calls)

    def stream(self, stream: FakeDevice) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def wait_event(self, event: object) -> None:
        self.calls.append("wait for the model")

    def synchronize(self) -> None:
        self.calls.append("arrived")

    def cudart(self) -> FakeDevice:
        return self

    def cudaHostRegister(self, at: int, nbytes: int, flags: int) -> int:  # noqa: N802
        if not self._locks:
            return 1
        self.locked.add(at)
        return 0

    def cudaHostUnregister(self, at: int) -> int:  # noqa: N802
        self.locked.remove(at)
        self.calls.append("unlock")
        return 0


class FakeEvent:
    """An event that tells when its block may be read into again."""

    def __init__(self, calls: list[str]) -> None:
        self._calls = calls
        self._name = f"block {sum(call.startswith('made') for call in calls)}"
        calls.append(f"made {self._name}")

    def record(self, stream: object) -> None:
        self._calls.append(f"{self._name} is copied")

    def synchronize(self) -> None:
        self._calls.append(f"wait for {self._name}")


@pytest.mark.parametrize("locks", [True, False])
def test_a_lane_waits_for_a_block_before_it_reads_into_it_again(
    locks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "BLOCK_BYTES", 4096)
    packed, into = _stored(tmp_path, "w", (64, 64)), _empty(64, 64)
    assert packed.source is not None
    reads = plan([(Slot(into, (64, 64)), packed, packed.source)])
    device = FakeDevice(monkeypatch, locks=locks)
    forgotten: list[bool] = []
    monkeypatch.setattr(stream, "_forget_error", lambda: forgotten.append(True))
    before = sum(log.FALLBACKS.values())
    with stream._opened({packed.source.path}) as files:
        crew = stream._Crew(CPU, files, queue.SimpleQueue())
        for read in reads:
            crew.todo.put(read)
        stream._work(crew, object())  # type: ignore[arg-type]
    said = [crew.said.get_nowait() for _ in range(5)]
    assert said == [1024, 1024, 1024, 1024, None] and torch.equal(into, unpack(packed, torch.float32))
    zero, one = "block 0", "block 1"
    ends = [f"wait for {zero}", "unlock", f"wait for {one}", "unlock"]
    assert device.calls == [
        "wait for the model",
        f"made {zero}",
        f"{zero} is copied",
        f"made {one}",
        f"{one} is copied",
        f"wait for {zero}",
        f"{zero} is copied",
        f"wait for {one}",
        f"{one} is copied",
        "arrived",
        *(end for end in ends if locks or end != "unlock"),
    ]
    assert not device.locked and bool(forgotten) is not locks
    assert (sum(log.FALLBACKS.values()) > before) is not locks
