"""Micro-benchmarks of a device: how fast it reads memory and how fast it multiplies matrices, and on demand a dozen more.

They return the rates of single repeats; `hardware.ceilings` and `hardware.survey` decide what to make of them. Operands are
random (constant data draws less power and runs faster than any model), and a read never finds its data in a cache: the buffer is
several times the last one. The ceilings take under 1.5 s on two CPU cores and under 3 s on a GPU, and are all that a start needs;
the survey is for `redline doctor`. Knows nothing of models. Open `measure` first, then `survey`.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch

from redline.errors import ConfigError
from redline.hardware import ceilings, disk
from redline.hardware import survey as surveys
from redline.hardware.ceilings import Ceilings, Probes
from redline.hardware.complaints import disturbed
from redline.hardware.machine import Machine
from redline.hardware.power import clocks_held, power_source
from redline.hardware.survey import Probe, Survey
from redline.kernels import probes_attention, probes_launch, probes_linear, timing
from redline.kernels.probes_linear import Linear

_CPU_READ_BYTES = 256 << 20  # at least; four times the last-level cache where that is more
_CPU_MOST_BYTES = 1 << 30
_CPU_CACHES = 4
_USUAL_CACHE_BYTES = 32 << 20  # of a CPU that does not tell
_CPU_READS = 10
_CPU_MATMUL_MNK = (512, 2048, 2048)  # a prefill chunk against a layer of a small model
_CPU_MATMULS = 6

_GPU_READ_BYTES = 4 << 30  # or a quarter of what is free; far beyond any L2
_GPU_READS = 12
_GPU_MATMUL_MNK = (8192, 8192, 8192)
_GPU_MATMULS = 10
_GPU_WARM_UPS = 3
_FLOAT32_SHARE = 8  # float32 products are made this much smaller: without matrix units they are that much slower


def measure(machine: Machine, device: str) -> Ceilings:
    """Measure `device` of `machine`, for the types that redline runs there, and keep the result for next time.

    Raises ConfigError for a device that is not here or that torch cannot use, InternalError for figures that cannot be true.
    """
    if device != "cpu" and not torch.cuda.is_available():
        raise ConfigError(f"torch {torch.__version__} cannot use {device}", hint="install torch's CUDA build", param="device")
    dtypes = (torch.float32, torch.bfloat16) if device == "cpu" else (torch.float32, torch.bfloat16, torch.float16)
    asked = probes(torch.device(device), dtypes, cache_bytes=machine.cpu.l3_bytes)
    return ceilings.measure(ceilings.identify(machine, device), asked)


def probes(device: torch.device, dtypes: tuple[torch.dtype, ...], *, cache_bytes: int | None = None) -> Probes:
    """The probes of `device` for products in each of `dtypes`.

    `cache_bytes` is the size of the CPU's last-level cache, where known. Memory is taken while a probe runs, and
    given back after it.
    """
    read = _gpu_read if device.type == "cuda" else functools.partial(_cpu_read, cache_bytes=cache_bytes)
    matmul = _gpu_matmul if device.type == "cuda" else _cpu_matmul
    return Probes(
        read=functools.partial(read, device),
        matmul={str(dtype).removeprefix("torch."): functools.partial(matmul, device, dtype) for dtype in dtypes},
    )


def survey(machine: Machine, device: str, dtype: str, until: float, *, linear: Linear = torch.nn.functional.linear) -> Survey:
    """Measure the rest of what `device` does, up to `until` of `time.monotonic`, and keep it for next time.

    `dtype` is the type of a model's activations there, by torch's name; `linear` the layers' product. Raises ConfigError for a
    device that is not here.
    """
    found = survey_probes(torch.device(device), getattr(torch, dtype), cache_bytes=machine.cpu.l3_bytes, linear=linear)
    gpu = machine.gpu(device)
    if gpu is None:
        found.insert(0, disk.read_probe(machine.storage))
    return surveys.take(
        ceilings.identify(machine, device),
        found,
        until,
        sheet=surveys.sheet_of(machine, device),
        despite=(disturbed(gpu) or "") if gpu is not None else "",
        held=functools.partial(clocks_held, power_source(machine, device)),
    )


def survey_probes(
    device: torch.device, dtype: torch.dtype, *, cache_bytes: int | None = None, linear: Linear = torch.nn.functional.linear
) -> list[Probe]:
    """What is measured beyond the ceilings, the short and telling first. `cache_bytes` is the CPU's last-level cache."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        cache_bytes = properties.L2_cache_size
        usual = (torch.bfloat16, torch.float16) if properties.major >= 8 else (torch.float16,)
    else:
        usual = (torch.float32, torch.bfloat16)
    dtypes = tuple(dict.fromkeys((dtype, *usual)))
    return [
        *probes_launch.copies(device),
        *probes_launch.launches(device),
        *probes_attention.probes(device, dtype),
        *probes_linear.probes(device, dtypes, cache_bytes or _USUAL_CACHE_BYTES, linear),
    ]


def _cpu_read(device: torch.device, cache_bytes: int | None) -> list[float]:
    """bytes/s of a large buffer, by the faster of two ways with little arithmetic per byte that torch has threads for: an integer
    maximum, and a matrix times a vector, which is what decoding does."""
    size = min(max(_CPU_READ_BYTES, _CPU_CACHES * (cache_bytes or 0)), _CPU_MOST_BYTES)
    block = torch.randn(1 << 21, device=device)
    buffer = block.repeat(size // block.nbytes)
    weight_NK = buffer.view(-1, _CPU_MATMUL_MNK[2])
    x_K = torch.randn(weight_NK.shape[1], device=device)
    found = [_timed_on_host(run, _CPU_READS) for run in (buffer.view(torch.int64).amax, lambda: torch.mv(weight_NK, x_K))]
    return [buffer.nbytes / s for s in min(found, key=min)]


def _cpu_matmul(device: torch.device, dtype: torch.dtype) -> list[float]:
    """FLOP/s of activations [M, K] times a weight [N, K], as the layers do it."""
    m, n, k = _CPU_MATMUL_MNK
    a_MK, b_NK = torch.randn(m, k, device=device).to(dtype), torch.randn(n, k, device=device).to(dtype)
    seconds = _timed_on_host(lambda: torch.nn.functional.linear(a_MK, b_NK), _CPU_MATMULS)
    return [2 * m * n * k / s for s in seconds]


def _timed_on_host(run: Callable[[], object], repeats: int) -> list[float]:
    with torch.inference_mode():
        run()
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
    return seconds


def _gpu_read(device: torch.device) -> list[float]:
    """bytes/s of an integer maximum over gigabytes."""
    from redline.kernels.probes_triton import ELEMENTS, tile_maxima

    free, _ = torch.cuda.mem_get_info(device)
    block = torch.randint(-(2**31), 2**31 - 1, (32 * ELEMENTS,), dtype=torch.int32, device=device)
    buffer = block.repeat(min(_GPU_READ_BYTES, free // 4) // block.nbytes)
    seconds = _timed_on_gpu(lambda: tile_maxima(buffer), _GPU_READS, device)
    return [buffer.nbytes / s for s in seconds]


def _gpu_matmul(device: torch.device, dtype: torch.dtype) -> list[float]:
    """FLOP/s of a large square product."""
    m, n, k = _GPU_MATMUL_MNK
    if dtype is torch.float32:
        m //= _FLOAT32_SHARE
    a_MK, b_NK = torch.randn(m, k, device=device).to(dtype), torch.randn(n, k, device=device).to(dtype)
    seconds = _timed_on_gpu(lambda: torch.nn.functional.linear(a_MK, b_NK), _GPU_MATMULS, device)
    return [2 * m * n * k / s for s in seconds]


def _timed_on_gpu(run: Callable[[], object], repeats: int, device: torch.device) -> list[float]:
    """Seconds of each repeat between events on the stream, after warm-ups that also raise the clocks."""
    with torch.inference_mode(), torch.cuda.device(device):
        for _ in range(_GPU_WARM_UPS):
            run()
        return timing.one_by_one(run, repeats)
