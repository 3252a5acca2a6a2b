"""Reading ahead asks for every byte of the model's files once, stops when told, and never complains."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from redline.checkpoint import readahead
from redline.checkpoint.readahead import ReadAhead


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[int, int]]]:
    """What was asked of the system, by file: (begin, length)."""
    seen: dict[str, list[tuple[int, int]]] = {}

    def advise(number: int, begin: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_WILLNEED
        seen.setdefault(Path(os.readlink(f"/proc/self/fd/{number}")).name, []).append((begin, length))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    monkeypatch.setattr(readahead, "STEP_BYTES", 100)
    return seen


def _read(name: str, most_bytes: int = 1 << 20) -> None:
    ahead = ReadAhead(name, most_bytes=most_bytes)
    if ahead._thread is not None:
        ahead._thread.join()
    ahead.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    (tmp_path / names[0]).write_bytes(bytes(250))
    (tmp_path / names[1]).write_bytes(bytes(100))
    listed = {"a": names[0], "b": names[1], "c": names[0]}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_every_byte_of_a_folder_s_weights_once(folder: Path, asked: dict[str, list[tuple[int, int]]]) -> None:
    _read(str(folder))
    assert asked == {
        "model-00001-of-00002.safetensors": [(0, 100), (100, 100), (200, 100)],
        "model-00002-of-00002.safetensors": [(0, 100)],
    }


def test_a_single_file(tmp_path: Path, asked: dict[str, list[tuple[int, int]]]) -> None:
    (tmp_path / "m.gguf").write_bytes(bytes(120))
    _read(str(tmp_path / "m.gguf"))
    assert asked == {"m.gguf": [(0, 100), (100, 100)]}


def test_what_does_not_fit_or_is_not_here_is_left_alone(
    folder: Path, tmp_path: Path, asked: dict[str, list[tuple[int, int]]]
) -> None:
    _read(str(folder), most_bytes=349)
    _read("random:tiny-llama")
    _read("no/such-model")
    (folder / "model-00002-of-00002.safetensors").unlink()
    _read(str(folder))
    assert not asked


def test_closing_stops_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on, calls = threading.Event(), threading.Event(), []

    def advise(*arguments: int) -> None:
        calls.append(arguments)
        begun.set()
        go_on.wait(10)

    monkeypatch.setattr(os, "posix_fadvise", advise)
    monkeypatch.setattr(readahead, "STEP_BYTES", 1)
    ahead = ReadAhead(str(folder), most_bytes=1 << 20)
    assert begun.wait(10)
    ahead._closed.set()
    go_on.set()
    ahead.close()
    assert len(calls) == 1
