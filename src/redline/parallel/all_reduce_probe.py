"""One rank of the all-reduce probe, a process of its own: `python -m redline.parallel.all_reduce_probe RANK SIZE BACKEND FILE`.

It loads torch, says `ready`, waits for a line, meets the others through FILE, sums, and rank 0 prints one JSON object. All ranks do
the same sums in the same order, so counts are fixed. Open `measure`.
"""

from __future__ import annotations

import datetime
import json
import sys
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

_LARGE_BYTES, _LARGE_SUMS, _LARGE_SAMPLES = 64 << 20, 4, 8
_CPU_LARGE_BYTES = 4 << 20
_SMALL_BYTES, _SMALL_SUMS, _SMALL_SAMPLES = 8 << 10, 50, 8  # one token's activations of a model of 4096 dimensions
_TIMEOUT = datetime.timedelta(seconds=60)


def measure(rank: int, size: int, backend: str, meet: str) -> dict[str, object]:
    """`rates`: bytes/s that a rank sends in large sums, as a ring does (2 (n - 1) / n of what is summed); `seconds` of small ones."""
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(backend, init_method=f"file://{meet}", rank=rank, world_size=size, timeout=_TIMEOUT)
    try:
        small = torch.randn(_SMALL_BYTES // 2, device=device).bfloat16()
        large_bytes = _LARGE_BYTES if device.type == "cuda" else _CPU_LARGE_BYTES
        large = torch.randn(large_bytes // 2, device=device).bfloat16()
        seconds, how = _small(small, device)
        taken = _samples(lambda: _sums(large, _LARGE_SUMS), _LARGE_SAMPLES, device)
        moved = 2 * (size - 1) / size * large.nbytes if size > 1 else large.nbytes
        name = f"{backend} over {size} devices" + (", without multicast over NVLink" if backend == "nccl" else "")
        words = (
            f"{name}; large: {large.nbytes >> 20} MiB, bytes that each sends as in a ring; small: {small.nbytes >> 10} KiB{how}"
        )
        return {"rates": [moved * _LARGE_SUMS / each for each in taken], "seconds": seconds, "how": words}
    finally:
        dist.destroy_process_group()


def _small(x: torch.Tensor, device: torch.device) -> tuple[list[float], str]:
    """Seconds of a small sum; on a GPU inside of a graph, as a decode step has it, where one can be captured."""
    _sums(x, 3)
    run: Callable[[], object] = lambda: _sums(x, _SMALL_SUMS)  # noqa: E731
    how = ""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                _sums(x, _SMALL_SUMS)
            run, how = graph.replay, ", in a graph"
        except RuntimeError:
            how = ", launched one by one"
    return [each / _SMALL_SUMS for each in _samples(run, _SMALL_SAMPLES, device)], how


def _sums(x: torch.Tensor, count: int) -> None:
    for _ in range(count):
        dist.all_reduce(x, op=dist.ReduceOp.MAX)  # moves what a sum does, and values do not grow


def _samples(run: Callable[[], object], count: int, device: torch.device) -> list[float]:
    """Seconds of `run`, after one call that does not count."""
    found = []
    for number in range(count + 1):
        began = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number:
            found.append(time.perf_counter() - began)
    return found


def main(arguments: list[str]) -> None:
    rank, size, backend, meet = int(arguments[0]), int(arguments[1]), arguments[2], arguments[3]
    print("ready", flush=True)
    if not sys.stdin.readline():
        return  # nobody asks any more
    told = measure(rank, size, backend, meet)
    if rank == 0:
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
