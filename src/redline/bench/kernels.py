"""`redline bench kernels`: every op of the house: first its check, then its time, then its share of the ceiling.

An op that fails a case of its own (against the float32 reference, by the one tolerance table) is not timed. The ceiling of a
call is the longer of its bytes over the read bandwidth and its FLOPs over the matrix rate, as `ops.py` counts them. On a GPU
the calls are replayed from one CUDA graph, so that launches do not count, and take turns over copies of their operands that
together do not fit into the L2, as a layer's weights never do. Open `measure` first, then `Timer`.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from redline import checkpoint as checkpoints
from redline import env
from redline.bench import kernel_sizes, report
from redline.bench.report import Column, Rates, Voice
from redline.config import AUTO
from redline.errors import InvalidRequest
from redline.hardware import Ceilings, Machine, ceilings, identify
from redline.hardware.detect import detect
from redline.kernels import all_specs, probes, timing
from redline.kernels.op import DTYPES, Inputs, OpSpec
from redline.kernels.tolerance import TOLERANCES, rms_ratio
from redline.ops import Axes
from redline.plan.resolve import choose_device, choose_dtype, choose_sizes

SHORT = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
CACHES = 4  # copies of the operands fill the L2 so many times
MOST_COPIES = 64
MOST_BYTES = 4 << 30
ROUND_S = 4e-3  # a sample lasts at least so long

COLUMNS = (
    Column("op", "op"),
    Column("size", "size"),
    Column("check", "check"),
    Column("us", "us", ".2f"),
    Column("spread", "spread", "share"),
    Column("ceiling_us", "ceiling us", ".2f"),
    Column("ratio", "share", ".3f"),
    Column("gb_s", "GB/s", ".0f"),
    Column("tflops", "TFLOP/s", ".1f"),
)


@dataclass(frozen=True)
class Bound:
    """What no call can beat: seconds, and of which bytes and FLOPs."""

    seconds: float | None
    bytes: int
    flops: int


@dataclass(frozen=True)
class Asked:
    """`ops`: names or parts of names, all where empty. `quick`: check the smallest and the largest case of an op only."""

    ops: tuple[str, ...]
    quick: bool
    repeats: int


def measure(model: str, engine: Mapping[str, Any], asked: Asked, voice: Voice, *, rates: Rates) -> report.Document:
    """Check and time the ops at the sizes of `model`, whose weights are not loaded. `engine` may say device and dtype."""
    shape = checkpoints.open(model, revision=engine.get("revision")).shape
    machine = detect(visible=env.visible_gpus())
    name = engine.get("device", AUTO)
    name = choose_device(machine)[0] if name == AUTO else "cuda:0" if name == "cuda" else name
    dtype = engine.get("dtype", AUTO)
    dtype = choose_dtype(machine, machine.gpu(name))[0] if dtype == AUTO else dtype
    known = rates.over(_ceilings(machine, name), dtype)
    voice.tell(report.ceiling_line(known, dtype))
    specs = _chosen(asked.ops)
    timer = Timer(torch.device(name), asked.repeats)
    scale = kernel_sizes.CPU if name == "cpu" else kernel_sizes.GPU
    page_size = engine.get("page_size") or choose_sizes(machine.gpu(name)).page_size
    rows: list[report.Row] = []
    if name == "cpu":
        torch.set_num_threads(engine.get("num_threads") or machine.cpu.cores)
    for spec in specs:
        kind = SHORT[dtype] if SHORT[dtype] in spec.op.dtypes else spec.op.dtypes[0]
        verdict, passed = check(spec, kind, timer.device, quick=asked.quick)
        found = kernel_sizes.sizes(spec, shape, scale, page_size) if passed else [{}]
        for axes in found:
            rows.append(_row(spec, axes, kind, dtype, verdict, known, timer if passed else None))
            voice.hint(f"{spec.name} {rows[-1]['size']}: {rows[-1]['us']} us, check {verdict}")
    voice.tell(report.table(rows, COLUMNS))
    about = {"device": known.name if known else name, "dtype": dtype, "ceilings": report.ceilings_of(known)}
    options = {**engine, "repeats": asked.repeats, "ops": list(asked.ops), "quick": asked.quick}
    return report.document("kernels", model, about=about, options=options, rows=rows)


def check(spec: OpSpec, dtype: str, device: torch.device, *, quick: bool) -> tuple[str, bool]:
    """Run the cases of `spec` on `device` against its reference: what to say of it, and whether all were right."""
    cases = spec.cases
    if quick and len(cases) > 2:
        ordered = sorted(cases, key=lambda case: spec.op.total_bytes(case, dtype))
        cases = (ordered[0], ordered[-1])
    limit, worst = TOLERANCES[spec.tolerance][dtype], 0.0
    for case in cases:
        try:
            ratio = _error(spec, spec.make_inputs(case, DTYPES[dtype], device, 1))
        except Exception as error:  # whatever a kernel does on a new card, the others are still measured
            return f"failed at {kernel_sizes.label(case)}: {type(error).__name__}: {_line(error)}", False
        if not ratio <= limit:
            return f"wrong at {kernel_sizes.label(case)}: error {ratio:.3g}, at most {limit:g}", False
        worst = max(worst, ratio)
    return f"{len(cases)} right" + (f", {worst / limit:.0%} of tolerance" if limit else ""), True


def _error(spec: OpSpec, inputs: Inputs) -> float:
    """The largest RMS error over the RMS of the reference among the results of one call."""
    worst = 0.0
    for want, got in zip(spec.reference(**inputs), spec.results(spec.run, inputs), strict=True):
        if spec.mutates:  # free slots of a cache stay NaN
            free = want.isnan() & got.isnan()
            want, got = want.masked_fill(free, 0.0), got.masked_fill(free, 0.0)
        worst = max(worst, rms_ratio(want, got))
    return worst


def _row(
    spec: OpSpec, axes: Axes, kind: str, dtype: str, verdict: str, known: Ceilings | None, timer: Timer | None
) -> report.Row:
    row: report.Row = {"op": spec.name, "dtype": kind, "size": kernel_sizes.label(axes), "check": verdict}
    row |= dict.fromkeys(("us", "spread", "ceiling_us", "ratio", "gb_s", "tflops"))
    if timer is None:
        return row | {"notes": [f"{spec.name} is not timed: its check {verdict}"]}
    bound = _bound(spec, axes, kind, dtype, known)
    try:
        samples, graph = timer.seconds(spec.run, kernel_sizes.inputs(spec, axes, DTYPES[kind], timer.device))
    except Exception as error:
        return row | {"notes": [f"{spec.name} {row['size']} is not timed: {type(error).__name__}: {_line(error)}"]}
    seconds = report.middle(samples)
    assert seconds is not None
    return row | {
        "us": report.short(seconds * 1e6),
        "spread": report.spread(samples),
        "ceiling_us": report.short(bound.seconds * 1e6 if bound.seconds is not None else None),
        "ratio": report.ratio(bound.seconds, seconds),
        "gb_s": report.short(bound.bytes / seconds / 1e9),
        "tflops": report.short(bound.flops / seconds / 1e12),
        "graph": graph,
    }


def _bound(spec: OpSpec, axes: Axes, kind: str, dtype: str, known: Ceilings | None) -> Bound:
    total, flops = spec.op.total_bytes(axes, kind), spec.op.flops(axes)
    if known is None:
        return Bound(None, total, flops)
    rate = known.matmul_flops.get(dtype)
    return Bound(max(total / known.read_bytes_per_s, flops / rate if rate else 0.0), total, flops)


class Timer:
    """Seconds of one call of an op, alone on its device."""

    def __init__(self, device: torch.device, repeats: int) -> None:
        self.device = device
        self._repeats = repeats
        self._cache_bytes = 0 if device.type == "cpu" else torch.cuda.get_device_properties(device).L2_cache_size

    @torch.inference_mode()
    def seconds(self, run: Callable[..., Any], inputs: Inputs) -> tuple[list[float], bool]:
        """Seconds of a call in each of the repeats, and whether they were replayed from a CUDA graph."""
        size = sum(tensor.nbytes for tensor in _tensors(inputs))
        copies = max(1, min(MOST_COPIES, MOST_BYTES // max(1, size), -(-CACHES * self._cache_bytes // max(1, size))))
        operands = [inputs, *(copy.deepcopy(inputs) for _ in range(copies - 1))]

        def once() -> None:
            for each in operands:
                run(**each)

        if self.device.type == "cpu":
            return [seconds / copies for seconds in self._on_host(once)], False
        with torch.cuda.device(self.device):
            replay, captured = timing.captured(once, self.device)
            return [seconds / copies for seconds in self._on_device(replay)], captured

    def _on_host(self, once: Callable[[], None]) -> list[float]:
        once()
        began = time.perf_counter()
        once()
        times = max(1, int(ROUND_S / max(1e-9, time.perf_counter() - began)))
        samples = []
        for _ in range(self._repeats):
            began = time.perf_counter()
            for _ in range(times):
                once()
            samples.append((time.perf_counter() - began) / times)
        return samples

    def _on_device(self, replay: timing.Call) -> list[float]:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

        def timed(times: int) -> float:
            begin.record()
            for _ in range(times):
                replay()
            end.record()
            end.synchronize()
            return begin.elapsed_time(end) * 1e-3 / times

        timed(1)
        times = max(1, int(ROUND_S / max(1e-7, timed(3))))
        return [timed(times) for _ in range(self._repeats)]


def _tensors(value: Any) -> list[Tensor]:
    """Every tensor among the arguments of a call, also inside lists and records."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for item in value.values() for tensor in _tensors(item)]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in _tensors(item)]
    return _tensors(vars(value)) if hasattr(value, "__dataclass_fields__") and hasattr(value, "__dict__") else []


def _chosen(parts: Sequence[str]) -> list[OpSpec]:
    specs = all_specs()
    found = [spec for name, spec in specs.items() if not parts or any(part in name for part in parts)]
    if not found:
        raise InvalidRequest(f"no op is called {', '.join(parts)}", hint=f"there are {', '.join(specs)}", param="ops")
    return found


def _ceilings(machine: Machine, device: str) -> Ceilings:
    """What was measured of the device before; measured now where nothing was."""
    return ceilings.load(identify(machine, device)) or probes.measure(machine, device)


def _line(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:160]
