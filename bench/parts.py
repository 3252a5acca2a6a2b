"""Times single calls on a GPU for the scripts beside it: alone, in a CUDA graph, against the card's measured ceilings.

A part that fails says why, and its caller goes on. Open `measure` first.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from redline.kernels import timing

MATMUL_FLOPS = 766e12  # an H200's, in bfloat16
READ_BYTES = 4.59e12
TARGET_S = 0.03  # of one part's timed repeats

Run = Callable[[], Any]


@dataclass
class Part:
    """One thing to time. `make` allocates, and gives the calls that are made in turn (the same work on other operands)."""

    name: str
    make: Callable[[], list[Run]]
    flops: float = 0.0
    bytes: float = 0.0
    about: dict[str, Any] = field(default_factory=dict)
    check: Callable[[], float] | None = None  # RMS error over RMS of the reference


def say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def guarded(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return run()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {str(error).strip()[:300]}"}


@torch.inference_mode()
def measure(part: Part) -> dict[str, Any]:
    start = time.perf_counter()
    runs = part.make()
    for run in runs:
        run()
    torch.cuda.synchronize()
    found: dict[str, Any] = {"first_ms": round(1e3 * (time.perf_counter() - start), 1)}
    if part.check is not None:
        found["rms_error"] = float(f"{part.check():.3g}")
    if part.flops < 1e12:
        found["host_us"] = round(1e6 * _host_seconds(runs), 1)
    seconds, graphed = _device_seconds(runs)
    found |= {"us": round(1e6 * seconds, 2), "graph": graphed}
    if part.flops:
        found |= {"tflops": round(part.flops / seconds / 1e12, 1)}
    if part.bytes:
        found |= {"tb_s": round(part.bytes / seconds / 1e12, 3)}
    limit = max(part.flops / MATMUL_FLOPS, part.bytes / READ_BYTES)
    return found | ({"limit_us": round(1e6 * limit, 2), "share": round(limit / seconds, 3)} if limit else {})


def _host_seconds(runs: list[Run]) -> float:
    """Of a call that need not wait for the device."""
    torch.cuda.synchronize()
    calls = 20
    start = time.perf_counter()
    for i in range(calls):
        runs[i % len(runs)]()
    seconds = (time.perf_counter() - start) / calls
    torch.cuda.synchronize()
    return seconds


def _device_seconds(runs: list[Run]) -> tuple[float, bool]:
    """Median seconds of one call, and whether they were replayed from a graph."""
    replay, calls = _captured(runs)
    graphed = replay is not None
    if replay is None:

        def replay() -> None:
            for run in runs:
                run()

        calls = len(runs)
    (once,) = timing.one_by_one(replay, 1)
    repeats = max(3, min(30, int(TARGET_S / max(once, 1e-5))))
    return statistics.median(timing.one_by_one(replay, repeats)) / calls, graphed


def _captured(runs: list[Run]) -> tuple[Run | None, int]:
    """A graph of at least ten calls, or None where something refuses to be captured."""
    rounds = max(1, 10 // len(runs)) if len(runs) > 1 else 4
    try:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            runs[0]()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(rounds):
                for run in runs:
                    run()
        return graph.replay, rounds * len(runs)
    except Exception:
        torch.cuda.synchronize()
        return None, 0
