"""Every kind's document can be drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from redline.bench import plot
from redline.errors import ConfigError

RANKS = {"p50": 3.0, "p90": 4.0, "p99": 9.0, "max": 10.0}
ROWS: dict[str, list[dict[str, Any]]] = {
    "decode": [
        {"batch": 1, "prompt": 128, "step_ms": 3.7, "limit_ms": 3.3, "ratio": 0.89},
        {"batch": 8, "prompt": 512, "step_ms": 4.1, "limit_ms": None, "ratio": None},
    ],
    "throughput": [
        {"requests": 512, "prompt": 1000, "output": 1000, "output_tokens_per_s": 9600.0, "limit_tokens_per_s": 11580.0}
    ],
    "prefill": [
        {"batch": 8, "prompt": 4096, "ms": 740.0, "limit_ms": 646.0, "ratio": 0.87},
        {"batch": 1, "prompt": 128, "ms": 4.4, "limit_ms": 3.3, "ratio": 0.75},
    ],
    "kernels": [
        {"op": "rms_norm", "size": "T1 D4096", "ratio": 0.4},
        {"op": "rotate", "size": "T1 N32", "ratio": None},
        {"op": "project", "size": "T1 N151936 K4096", "ratio": 0.93},
    ],
    "serve": [
        {"rate": None, "prompt": 128, "first_ms": 5.0},
        {"rate": 1.0, "ttft_ms": RANKS, "itl_ms": RANKS},
        {"rate": 8.0, "ttft_ms": RANKS, "itl_ms": dict.fromkeys(RANKS)},
    ],
    "start": [
        {"run": "offline, empty cache", "stages": {"importing torch": 2.0, "warming up": 20.0}},
        {"run": "offline, warm cache", "stages": {"importing torch": 2.0, "first token": 0.1}},
    ],
}


def _document(kind: str) -> dict[str, Any]:
    return {"bench": kind, "model": "random:qwen3-8b", "device": "NVIDIA H200", "dtype": "bfloat16", "rows": ROWS[kind]}


def test_every_kind_has_a_picture() -> None:
    assert set(plot._PICTURES) == set(ROWS)


@pytest.mark.parametrize("kind", sorted(ROWS))
def test_a_document_is_drawn(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot.draw(_document(kind), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_place_that_cannot_be_written_is_the_users_mistake(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(ConfigError):
        plot.draw(_document("decode"), tmp_path / "nowhere" / "plot.png")


def test_without_matplotlib_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError) as raised:
        plot.require()
    assert "pip install '.[plot]'" in raised.value.sentence()
