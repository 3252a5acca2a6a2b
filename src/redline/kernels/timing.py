"""Seconds of a call, alone on its device: on a CPU by the clock, on a GPU between events and, if it can be, from a CUDA graph.

Every function returns the seconds of single samples; who asked decides which of them count. Knows no kernel. Open `on_host`
and `on_device`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

SAMPLE_S = 1e-3  # a sample lasts at least so long
WARM_S = 0.02  # of calls that do not count, in which clocks rise
MOST_SAMPLES = 50

Call = Callable[[], object]


def on_host(run: Call, seconds: float) -> list[float]:
    """Seconds of a call, sampled for about `seconds`; once at the least."""
    with torch.inference_mode():
        until = time.perf_counter() + seconds
        first = _timed(run, 1)
        times = max(1, int(SAMPLE_S / max(1e-9, min(first, _timed(run, 1) if 4 * first < seconds else first))))
        samples: list[float] = []
        while not samples or (len(samples) < MOST_SAMPLES and time.perf_counter() < until):
            samples.append(_timed(run, times))
    return samples


def _timed(run: Call, times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - began) / times


def on_device(run: Call, device: torch.device, seconds: float) -> list[float]:
    """Seconds of a call between events on the current stream, sampled for about `seconds`; once at the least."""
    with torch.inference_mode(), torch.cuda.device(device):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

        def timed(times: int) -> float:
            begin.record()
            for _ in range(times):
                run()
            end.record()
            end.synchronize()
            return begin.elapsed_time(end) * 1e-3 / times

        began = time.perf_counter()
        once = timed(1)
        while time.perf_counter() - began < min(WARM_S, seconds / 4):
            once = timed(max(1, int(SAMPLE_S / max(1e-7, once))))
        times = max(1, int(SAMPLE_S / max(1e-7, once)))
        samples: list[float] = []
        while not samples or (len(samples) < MOST_SAMPLES and time.perf_counter() - began < seconds):
            samples.append(timed(times))
    return samples


def one_by_one(run: Call, times: int) -> list[float]:
    """Seconds of each of so many calls between events on the current stream, queued without a pause."""
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(times + 1)]
    for place, mark in enumerate(marks):
        if place:
            run()
        mark.record()
    marks[-1].synchronize()
    return [began.elapsed_time(ended) * 1e-3 for began, ended in zip(marks, marks[1:], strict=False)]


def captured(run: Call, device: torch.device) -> tuple[Call, bool]:
    """`run` as the replay of a CUDA graph, after a warm-up, and True; itself and False where it cannot be captured."""
    with torch.inference_mode(), torch.cuda.device(device):
        run()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                run()
        except RuntimeError:
            torch.cuda.synchronize()
            return run, False
        return graph.replay, True
