"""Probes of what several GPUs say to each other: copies from one to the next, and sums over all of them.

Sums are NCCL's, one process a GPU (`all_reduce_probe.py`), with multicast over NVLink left off. The processes are started ahead
(`Group.start`), because importing torch takes longer than the measurement. Open `probes`, then `Group`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import torch

from redline import env
from redline.errors import ConfigError
from redline.hardware.survey import Probe, Samples
from redline.kernels import timing
from redline.kernels.probes_launch import free_bytes

_CHILD = "redline.parallel.all_reduce_probe"
_ENVIRONMENT = {"NCCL_NVLS_ENABLE": "0", "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0", "OMP_NUM_THREADS": "1"}
_SEND_BYTES = 256 << 20
_MOST_SHARE = 8  # a buffer takes at most this part of the memory that is free
_SUM_S, _MOST_SUM_S = 4.0, 12.0  # until the processes have found each other and are done
_START_S = 120.0


def probes(group: Group) -> Iterator[Probe]:
    """Sums first: what a step of a tensor-parallel model waits for."""
    limits = (("link", 1.0),)
    yield Probe("all-reduce", "bytes/s", lambda seconds: group.samples("rates", seconds), _SUM_S, limits, most_s=_MOST_SUM_S)
    yield Probe("all-reduce, small", "s", lambda seconds: group.samples("seconds", seconds), 0.0)
    for first in range(group.size - 1):
        if group.backend == "nccl":
            run = functools.partial(send, torch.device("cuda", first), torch.device("cuda", first + 1))
            yield Probe(f"send cuda:{first} to cuda:{first + 1}", "bytes/s", run, 0.3, limits)


def send(source: torch.device, target: torch.device, seconds: float) -> Samples:
    """bytes/s of copies from one GPU's memory into another's."""
    free = min(free_bytes(device) for device in (source, target))
    block = torch.randint(-(2**62), 2**62, (1 << 17,), dtype=torch.int64, device=source)
    own = block.repeat(max(1, min(_SEND_BYTES, free // _MOST_SHARE) // block.nbytes))
    theirs = torch.empty_like(own, device=target)
    taken = timing.on_device(lambda: theirs.copy_(own, non_blocking=True), source, seconds)
    direct = torch.cuda.can_device_access_peer(source, target)
    return Samples([own.nbytes / each for each in taken], "peer copies" if direct else "through the host's memory")


class Group:
    """Processes that sum over `size` devices: started and loaded on entering the `with` block, ended on leaving it.

    `backend` is nccl, or gloo for processes that sum on the CPU. They are asked once; what they say serves all probes. What
    goes wrong is raised as ConfigError when samples are asked for, never before.
    """

    def __init__(self, size: int, backend: str = "nccl") -> None:
        self.size = size
        self.backend = backend
        self._children: list[subprocess.Popen[bytes]] = []
        self._folder = Path()
        self._open = contextlib.ExitStack()
        self._told: dict[str, Samples] | None = None
        self._failure = ""

    def __enter__(self) -> Group:
        self._folder = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="redline-sums-")))
        meet = str(self._folder / "meet")
        for rank in range(self.size):
            error = self._open.enter_context(open(self._folder / f"error-{rank}", "wb"))
            command = [sys.executable, "-m", _CHILD, str(rank), str(self.size), self.backend, meet]
            pipe, environment = subprocess.PIPE, env.for_child(**_ENVIRONMENT)
            try:
                child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=error, bufsize=0, env=environment)
            except OSError as failure:
                self._failure = f"could not be started: {failure}"
                break
            self._children.append(child)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._kill()
        for child in self._children:
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        self._open.close()

    def wait(self, seconds: float = _START_S) -> None:
        """Until every process has loaded what it needs; what keeps one from it is told by `samples`."""
        until = time.monotonic() + seconds
        for child in self._children:
            assert child.stdout is not None
            ready, _, _ = select.select([child.stdout], [], [], max(0.0, until - time.monotonic()))
            if not ready or not child.stdout.readline().startswith(b"ready"):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(1.0)  # its last words are written
                self._failure = self._failure or self._why("did not start")

    def samples(self, what: str, seconds: float) -> Samples:
        """`rates`, bytes/s that each device sends in large sums, or `seconds` of a small one."""
        if self._told is None and not self._failure:
            try:
                self._told = self._asked(time.monotonic() + seconds)
            except (OSError, ValueError, KeyError, TypeError) as error:
                self._failure = self._why(f"failed: {error}")
        if self._told is None:
            raise ConfigError(f"summing over {self.size} devices {self._failure}")
        return self._told[what]

    def _asked(self, until: float) -> dict[str, Samples] | None:
        """Let the processes sum; None, with the failure noted, where they do not end well."""
        for child in self._children:
            assert child.stdin is not None
            child.stdin.write(b"go\n")
        while any(child.poll() is None for child in self._children):
            failed = any(child.poll() for child in self._children)
            if failed or time.monotonic() > until:
                self._failure = self._why("failed" if failed else "took too long")
                return None
            time.sleep(0.01)
        if any(child.returncode for child in self._children):
            self._failure = self._why("failed")
            return None
        out = self._children[0].stdout
        assert out is not None
        told = json.loads(out.read().splitlines()[-1])
        return {what: Samples([float(value) for value in told[what]], str(told["how"])) for what in ("rates", "seconds")}

    def _why(self, what: str) -> str:
        """With the last line that a process which failed has left, itself ended with the others."""
        failed = [rank for rank, child in enumerate(self._children) if child.poll()]
        self._kill()
        for rank in failed:
            lines = (self._folder / f"error-{rank}").read_text(errors="replace").strip().splitlines()
            if lines:
                return f"{what}: {lines[-1][:200]}"
        return what

    def _kill(self) -> None:
        for child in self._children:
            if child.poll() is None:
                child.kill()
