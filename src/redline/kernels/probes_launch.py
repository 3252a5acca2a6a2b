"""Probes of what work on a device costs before it is done: launches, graphs, and copies on the device and to the host.

Open `launches` and `copies`.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from redline.errors import ConfigError
from redline.hardware.survey import Probe, Samples
from redline.kernels import timing

NO_GPU = "a processor runs what it is told without a launch, and has no memory of its own to copy to"
_HOST_BYTES = 256 << 20
_COPY_BYTES = 1 << 30
_CPU_COPY_BYTES = 256 << 20
_MOST_SHARE = 8  # a buffer takes at most this part of the memory that is free
_LAUNCHES = 500
_NODES = 500


def launches(device: torch.device) -> Iterator[Probe]:
    """Seconds of a launch: of one kernel, of a graph, and of a kernel inside of one."""
    if device.type != "cuda":
        for name in ("kernel launch", "graph launch", "graph node"):
            yield Probe(name, "s", None, reason=NO_GPU)
        return
    yield Probe("kernel launch", "s", functools.partial(_kernels, device), 0.1)
    yield Probe("graph launch", "s", functools.partial(_graph_launch, device), 0.1)
    yield Probe("graph node", "s", functools.partial(_graph_node, device), 0.1)


def copies(device: torch.device) -> Iterator[Probe]:
    """bytes/s of copies: on the device (both what is read and what is written counts), and from and to pinned host memory."""
    own = _copy if device.type == "cuda" else _cpu_copy
    yield Probe("copy", "bytes/s", functools.partial(own, device), 0.2, (("read", 1.0),))
    for name, to_device in (("host to device", True), ("device to host", False)):
        if device.type != "cuda":
            yield Probe(name, "bytes/s", None, reason=NO_GPU)
            continue
        run = functools.partial(_host_copy, device, to_device)
        yield Probe(name, "bytes/s", run, 0.3, (("host", 1.0),))


def _kernels(device: torch.device, seconds: float) -> Samples:
    """One after another in a stream: what the host takes for each, or the device where that is longer."""
    x = torch.zeros(1, device=device)

    def many() -> None:
        for _ in range(_LAUNCHES):
            x.add_(1.0)
        torch.cuda.synchronize(device)

    taken = timing.on_host(many, seconds)
    return Samples([each / _LAUNCHES for each in taken], "additions to one element, one after another through torch")


def _graph_launch(device: torch.device, seconds: float) -> Samples:
    """From one replay to the next of a graph with one node."""
    one = _additions(device, 1)
    return Samples(_replays(one, device, seconds), "replays of a graph of one addition, one after another")


def _graph_node(device: torch.device, seconds: float) -> Samples:
    """What every further node of a graph adds."""
    one, many = _additions(device, 1), _additions(device, _NODES)
    first = min(_replays(one, device, seconds / 2))
    taken = _replays(many, device, seconds / 2)
    return Samples([(each - first) / (_NODES - 1) for each in taken], f"a graph of {_NODES} additions, less the launch")


def _additions(device: torch.device, count: int) -> Callable[[], object]:
    x = torch.zeros(1, device=device)

    def run() -> None:
        for _ in range(count):
            x.add_(1.0)

    replay, graph = timing.captured(run, device)
    if not graph:
        raise ConfigError("this driver or this build of torch captures no CUDA graphs")
    return replay


def _replays(replay: Callable[[], object], device: torch.device, seconds: float) -> list[float]:
    """By the clock: the host's share of a launch counts."""
    times = 20

    def many() -> None:
        for _ in range(times):
            replay()
        torch.cuda.synchronize(device)

    return [each / times for each in timing.on_host(many, seconds)]


def _copy(device: torch.device, seconds: float) -> Samples:
    free = free_bytes(device)
    source = _random(min(_COPY_BYTES, free // _MOST_SHARE), device)
    target = torch.empty_like(source)
    taken = timing.on_device(lambda: target.copy_(source), device, seconds)
    return Samples([2 * source.nbytes / each for each in taken], "bytes read and written")


def _cpu_copy(device: torch.device, seconds: float) -> Samples:
    source = _random(_CPU_COPY_BYTES, device)
    target = torch.zeros_like(source)
    taken = timing.on_host(lambda: target.copy_(source), seconds)
    return Samples([2 * source.nbytes / each for each in taken], "bytes read and written")


def _host_copy(device: torch.device, to_device: bool, seconds: float) -> Samples:
    began = time.perf_counter()
    free = free_bytes(device)
    own = _random(min(_HOST_BYTES, free // _MOST_SHARE), device)
    host = torch.empty(own.shape, dtype=own.dtype, pin_memory=True)
    host.copy_(own)
    source, target = (host, own) if to_device else (own, host)
    left = max(0.05, seconds - (time.perf_counter() - began))
    taken = timing.on_device(lambda: target.copy_(source, non_blocking=True), device, left)
    return Samples([own.nbytes / each for each in taken], f"pinned memory, {own.nbytes >> 20} MiB at a time")


def free_bytes(device: torch.device) -> int:
    """Memory of a GPU that nobody holds; what torch kept of earlier probes is given back first."""
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]


def _random(size: int, device: torch.device) -> Tensor:
    """int64 values: some, again and again."""
    block = torch.randint(-(2**62), 2**62, (1 << 17,), dtype=torch.int64, device=device)
    return block.repeat(max(1, size // block.nbytes))
