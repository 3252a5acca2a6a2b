"""Triton's kernels are kept where redline keeps its own, unless the user said otherwise or the place cannot be written."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from redline import log
from redline.kernels import compiled

knobs = pytest.importorskip("triton").knobs


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Triton's setting as in a fresh process of a user whose home is `tmp_path`."""
    monkeypatch.setenv("TRITON_CACHE_DIR", "set so that it is restored")
    monkeypatch.delenv("TRITON_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TRITON_HOME", str(tmp_path))
    before = knobs.cache.__dict__.pop("dir", None)
    yield knobs.cache
    knobs.cache.__dict__.pop("dir", None)
    if before is not None:
        knobs.cache.__dict__["dir"] = before


def test_kernels_are_kept_in_the_folder(cache: Any, tmp_path: Path) -> None:
    compiled.keep(tmp_path / "a" / "b")
    assert cache.dir == str(tmp_path / "a" / "b") and (tmp_path / "a" / "b").is_dir()


def test_the_user_s_own_place_stays(cache: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "mine"))
    compiled.keep(tmp_path / "other")
    assert cache.dir == str(tmp_path / "mine") and not (tmp_path / "other").exists()


def test_a_folder_that_cannot_be_written_is_told_and_replaced(cache: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    before = sum(log.FALLBACKS.values())
    compiled.keep(tmp_path / "file" / "kernels")
    assert Path(cache.dir).is_dir() and "redline-kernels-" in cache.dir
    assert sum(log.FALLBACKS.values()) == before + 1


def test_a_cpu_prepares_nothing() -> None:
    before = threading.active_count()
    with compiled.prepared(torch.device("cpu")):
        assert threading.active_count() == before


def test_what_cannot_be_prepared_stops_nothing() -> None:
    with compiled.prepared(torch.device("cuda", 99)):
        pass
