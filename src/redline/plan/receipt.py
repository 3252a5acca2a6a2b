"""The limit of every step beside what it took, and the receipt of a request made from its steps.

A ratio is limit over time: 1 is the machine's limit. Time is wall time of the steps: the device's seconds and the
seconds the device waited for the host before them. Without measured ceilings there is no limit, and every figure that
needs one is null with the reason beside it. Open `Meter` first, then `receipt`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from redline.hardware.ceilings import Ceilings
from redline.plan.roofline import Cost, StepWork, cost, limit_parts, prompt_seconds
from redline.shapes import ModelShape

Phase = Literal["prefill", "decode"]

NOT_MEASURED = "not measured yet: run redline doctor"
USUAL_SHARE = 0.8  # of the matrix rate, in long chunks of a prompt
_NAMES = {
    "kv": {"_attend", "_decode", "_reduce", "_prepare", "_rotate", "_write_kv", "decode_attention"},
    "sampling": {"_pick", "_pick_part", "_threshold", "_mask", "_end"},
}  # our own kernels (kernels/)
_MARKS = {
    "kv": ("attention", "attn", "flash", "fmha", "sdpa"),
    "sampling": ("sample", "argmax", "topk", "softmax", "sort"),
}  # in the names of libraries' kernels
_FASTER_THAN_LIMIT = 1.03  # beyond timer noise: the ceiling was measured on a busy machine


@dataclass(frozen=True, slots=True)
class StepLimit:
    """One step: its limit (None: no ceilings), what it took, the bytes it had to move and the FLOPs it had to do.

    `kv_limit_s` is the part of the limit that falls to attention; `padding_s` what the empty rows among `rows` add to it.
    """

    limit_s: float | None
    seconds: float  # the device's
    host_s: float  # the device waited for the host so long before it
    weight_bytes: float
    kv_bytes: float
    flops: float
    kv_limit_s: float = 0.0
    padding_s: float = 0.0
    rows: int = 0  # sequences that were computed, empty ones of a graph included
    captured: bool = False  # ran as one graph


@dataclass(slots=True)
class Totals:
    """Sums over steps; the names are those of `StepLimit`. `limit_s` stays 0 without ceilings."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    host_s: float = 0.0
    limit_s: float = 0.0
    weight_bytes: float = 0.0
    kv_bytes: float = 0.0
    flops: float = 0.0
    kv_limit_s: float = 0.0
    padding_s: float = 0.0
    rows: int = 0
    captured: int = 0  # steps

    @property
    def wall_s(self) -> float:
        return self.seconds + self.host_s

    def add(self, step: StepLimit, tokens: int) -> None:
        self.steps += 1
        self.tokens += tokens
        self.seconds += step.seconds
        self.host_s += step.host_s
        self.limit_s += step.limit_s or 0.0
        self.weight_bytes += step.weight_bytes
        self.kv_bytes += step.kv_bytes
        self.flops += step.flops
        self.kv_limit_s += step.kv_limit_s
        self.padding_s += step.padding_s
        self.rows += step.rows
        self.captured += step.captured

    def copy(self) -> Totals:
        return replace(self)

    def add_between(self, before: Totals, after: Totals, tokens: int) -> None:
        """All steps between two states of one sum, in each of which `tokens` tokens count."""
        steps = after.steps - before.steps
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(after, name) - getattr(before, name))
        self.tokens += steps * tokens


_SUMS = tuple(item.name for item in fields(Totals) if item.name != "tokens")


OVER = ("weights_over", "kv_over", "sampling", "launches")


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Seconds of the kernels of one decode step of `rows` rows, by what they are there for, as somebody saw them.

    `weights`: projections, with the norms, activations and embeddings between them; `kv`: attention, over `kv_bytes`;
    `sampling`; `launches`: when no kernel ran. Kernels that overlap count once. With `step_s` the step they were seen in.
    """

    rows: int
    weights_s: float
    kv_s: float
    sampling_s: float
    launches_s: float
    kv_bytes: float

    @classmethod
    def of(cls, kernels: Mapping[str, float], *, step_s: float, rows: int, kv_bytes: float) -> Anatomy:
        """From the seconds of each kernel in a step of `step_s` seconds of the device.

        Kernels that begin before the one before them ends add up to more than the step; then all shrink alike.
        """
        seconds = dict.fromkeys(("weights", "kv", "sampling"), 0.0)
        for name, each in kernels.items():
            seconds[_purpose(name)] += each
        busy = sum(seconds.values())
        fit = min(1.0, step_s / busy) if busy > 0 else 1.0
        weights, kv, sampling = (fit * each for each in seconds.values())
        return cls(rows, weights, kv, sampling, max(0.0, step_s - busy), kv_bytes)

    def over(self, total: Totals) -> dict[str, float]:
        """What steps of `rows` rows took beyond the limit, by `OVER`. Attention is taken to grow with the bytes it reads."""
        steps = total.steps
        kv = self.kv_s * total.kv_bytes / self.kv_bytes if self.kv_bytes else self.kv_s * steps
        weights_limit = total.limit_s - total.kv_limit_s + total.padding_s
        found = (self.weights_s * steps - weights_limit, kv - total.kv_limit_s, self.sampling_s * steps, self.launches_s * steps)
        return dict(zip(OVER, found, strict=True))


def _purpose(kernel: str) -> str:
    """What a kernel is there for, by its name; "weights" where nothing else is known."""
    own = next((purpose for purpose, names in _NAMES.items() if kernel in names), None)
    name = kernel.lower()
    return own or next((purpose for purpose, marks in _MARKS.items() if any(mark in name for mark in marks)), "weights")


class Meter:
    """Holds every step of an engine against the roofline. `totals` by phase are for metrics.

    `anatomies`, by rows, are what is known of the kernels of its decode steps; whoever watches one may add it.

    `weight_bytes` and `kv_bytes` are bytes per element as they lie in memory, `dtype` the type that is multiplied,
    `file_bytes` the weights' own size in the checkpoint, `device` a name for people.
    """

    def __init__(
        self,
        shape: ModelShape,
        dtype: str,
        weight_bytes: float,
        kv_bytes: float,
        ceilings: Ceilings | None,
        file_bytes: int,
        device: str = "",
    ):
        self.dtype = dtype
        self.ceilings = ceilings
        self.file_bytes = file_bytes
        self.device = device or (ceilings.name if ceilings else "this device")
        self.anatomies: dict[int, Anatomy] = {}
        self.totals: dict[Phase, Totals] = {"prefill": Totals(), "decode": Totals()}
        self._shape = shape
        self._weight_bytes = weight_bytes
        self._kv_bytes = kv_bytes

    def cost(self, work: StepWork) -> Cost:
        """Bytes and FLOPs of a step of this engine."""
        return cost(self._shape, self._weight_bytes, self._kv_bytes, work)

    def step(self, work: StepWork, seconds: float, host_s: float, padding: int = 0, *, captured: bool = False) -> StepLimit:
        """Account one step: `seconds` of the device, before which it waited `host_s` for the host.

        `padding` empty rows were computed beside those of `work`, if it was `captured` as one graph. A step with any prompt
        token beyond one per sequence counts as prefill in `totals`.
        """
        due = self.cost(work)
        limit, kv, empty = self._limits(due, work, padding, self.ceilings) if self.ceilings else (None, 0.0, 0.0)
        step = StepLimit(
            limit_s=limit,
            seconds=seconds,
            host_s=host_s,
            weight_bytes=due.weight_bytes,
            kv_bytes=due.kv_read_bytes + due.kv_write_bytes,
            flops=due.flops,
            kv_limit_s=kv,
            padding_s=empty,
            rows=work.sequences + padding,
            captured=captured,
        )
        self.totals["prefill" if work.tokens > work.sequences else "decode"].add(step, work.tokens)
        return step

    def _limits(self, due: Cost, work: StepWork, padding: int, ceilings: Ceilings) -> tuple[float, float, float]:
        """Of a step, in seconds: its limit, attention's part of that, and what its empty rows add."""
        weights, kv = limit_parts(due, ceilings, self.dtype)
        if not padding:
            return weights + kv, kv, 0.0
        padded = replace(work, tokens=work.tokens + padding, logit_rows=work.logit_rows + padding)
        return weights + kv, kv, limit_parts(self.cost(padded), ceilings, self.dtype)[0] - weights

    def prompt_seconds(self) -> tuple[float, float] | None:
        """What a prompt token takes, and each pair of it and a token that it sees, in kernels as good as usual; None: not known."""
        rate = self.ceilings.matmul_flops.get(self.dtype) if self.ceilings else None
        return prompt_seconds(self._shape, USUAL_SHARE * rate) if rate else None

    def anatomy_over(self, total: Totals) -> dict[str, float] | None:
        """`Anatomy.over` of steps that all had as many rows as one that was watched; None: they had not."""
        rows, rest = divmod(total.rows, total.steps) if total.steps else (0, 1)
        anatomy = self.anatomies.get(rows) if not rest else None
        return None if anatomy is None else anatomy.over(total)

    @property
    def file_floor_s(self) -> float | None:
        """Least time to read the checkpoint's own bytes once: the floor of a decode step that computes from them.

        None without ceilings, and for random weights, which have no file.
        """
        return self.file_bytes / self.ceilings.read_bytes_per_s if self.ceilings and self.file_bytes else None


@dataclass(slots=True)
class RequestMeter:
    """What one request took part in.

    A step that several requests share counts whole for each of them, time and limit alike: nobody's share would have
    been faster alone, and the ratio is that of the step.
    """

    prefill: Totals = field(default_factory=Totals)
    decode: Totals = field(default_factory=Totals)

    def add(self, phase: Phase, own_tokens: int, step: StepLimit) -> None:
        """One step in which the request computed `own_tokens` tokens, of all its choices together."""
        (self.prefill if phase == "prefill" else self.decode).add(step, own_tokens)


def receipt(
    request: RequestMeter, meter: Meter, *, queue_s: float, time_to_first_token_s: float | None, cached_tokens: int
) -> dict[str, object]:
    """The receipt of one request, JSON-able. Seconds, GB/s and TFLOP/s in powers of ten; null where unknown.

    `bytes_per_token` holds whole steps' bytes over the request's own tokens. `rest` splits what its steps took beyond
    the limit: waiting for the host, and the rest inside the steps; `step` is its mean decode step, part by part (`split`).
    `reason` says why figures are null.
    """
    ceilings = meter.ceilings
    advice = _advice(request, meter, queue_s)
    return {
        "device": meter.device,
        "dtype": meter.dtype,
        "ceilings": None if ceilings is None else _ceilings(ceilings, meter.dtype),
        "reason": None if ceilings else NOT_MEASURED,
        "queue_s": _short(queue_s),
        "time_to_first_token_s": _short(time_to_first_token_s),
        "prefill": {
            "tokens": request.prefill.tokens,
            "cached_tokens": cached_tokens,
            "seconds": _short(request.prefill.wall_s),
            "limit_s": _short(request.prefill.limit_s) if ceilings else None,
            "ratio": _ratio(request.prefill, ceilings),
        },
        "decode": _decode(request.decode, ceilings),
        "bytes_per_token": {
            "weights": _whole(request.decode.weight_bytes, request.decode.tokens),
            "kv": _whole(request.decode.kv_bytes, request.decode.tokens),
        },
        "file_floor_ms": _milli(meter.file_floor_s),
        "rest": _rest(request, ceilings) | _unattributed(request, meter),
        "step": split(request.decode, meter),
        "advice": advice,
    }


def split(total: Totals, meter: Meter) -> dict[str, object]:
    """Where the mean step of `total` went, in milliseconds, JSON-able; for decode steps, but true of any.

    `ms` is `device_ms` and `host_ms`, the wait for the host before it. `device_ms` is what reading the weights and the KV
    takes at the limit, what empty rows of a graph add to that (`padding_ms`), how much longer the kernels take that do this
    (`weights_over_ms`, `kv_over_ms`), sampling, launches (what no kernel accounts for), and what is left: `unattributed_ms`.
    The kernels' part is known where one step of so many rows was watched (`Meter.anatomies`) and null elsewhere; then all
    that a step takes beyond the limit and the padding is unattributed.
    """
    steps = total.steps
    if not steps:
        return {"steps": 0}
    limits = (total.limit_s - total.kv_limit_s, total.kv_limit_s, total.padding_s) if meter.ceilings else (None, None, None)
    over = meter.anatomy_over(total) if meter.ceilings else None
    left = None
    if meter.ceilings:
        left = total.seconds - total.limit_s - total.padding_s - (sum(over.values()) if over else 0.0)
    parts = {"weights": limits[0], "kv": limits[1], "padding": limits[2], **(over or dict.fromkeys(OVER)), "unattributed": left}
    return {
        "steps": steps,
        "captured_share": _short(total.captured / steps),
        "rows": _short(total.rows / steps),
        "ms": _milli(total.wall_s / steps),
        "device_ms": _milli(total.seconds / steps),
        "host_ms": _milli(total.host_s / steps),
        "host_share": _short(total.host_s / total.wall_s if total.wall_s > 0 else None),
        **{f"{name}_ms": _milli(None if seconds is None else seconds / steps) for name, seconds in parts.items()},
        "unattributed_share": _short(left / total.wall_s if left is not None and total.wall_s > 0 else None),
    }


def summary(receipt: Mapping[str, Any]) -> str:
    """A receipt in two or three lines for people."""
    lines = []
    decode, prefill, device = receipt["decode"], receipt["prefill"], receipt["device"]
    if decode["tokens_per_s"] is not None:
        line = f"{decode['tokens_per_s']:.1f} tok/s"
        if decode["ratio"] is not None:
            most = 1e3 / decode["limit_ms_per_token"]
            read = receipt["ceilings"]["read_gb_s"]
            line += f", {decode['ratio']:.0%} of what {device} can do (limit {most:.1f} tok/s, reading {read:.1f} GB/s)"
        else:
            line += f" on {device}; its limit is {receipt['reason']}"
        lines.append(line)
    prompt = f"prompt: {prefill['tokens']} tokens in {prefill['seconds']:.2f} s"
    if prefill["cached_tokens"]:
        prompt += f", {prefill['cached_tokens']} more from the cache"
    if prefill["ratio"] is not None:
        prompt += f", {prefill['ratio']:.0%} of the limit"
    if receipt["time_to_first_token_s"] is not None:
        prompt += f"; first token after {receipt['time_to_first_token_s']:.2f} s ({receipt['queue_s']:.2f} s in the queue)"
    return "\n".join([*lines, prompt, receipt["advice"]])


def _ceilings(ceilings: Ceilings, dtype: str) -> dict[str, object]:
    rate = ceilings.matmul_flops.get(dtype)
    return {
        "read_gb_s": _short(ceilings.read_bytes_per_s / 1e9),
        "matmul_tflops": _short(rate / 1e12 if rate else None),
        "measured_at": ceilings.measured_at,
        "source": ceilings.source,
    }


def _decode(total: Totals, ceilings: Ceilings | None) -> dict[str, object]:
    per_token = total.wall_s / total.tokens if total.tokens else None
    limit = total.limit_s / total.tokens if ceilings and total.tokens else None
    bandwidth = None
    if ceilings and total.wall_s > 0:
        bandwidth = (total.weight_bytes + total.kv_bytes) / total.wall_s / ceilings.read_bytes_per_s
    return {
        "tokens": total.tokens,
        "seconds": _short(total.wall_s),
        "tokens_per_s": _short(1 / per_token if per_token else None),
        "ms_per_token": _milli(per_token),
        "limit_ms_per_token": _milli(limit),
        "ratio": _ratio(total, ceilings),
        "share_of_bandwidth": _short(bandwidth),
    }


def _rest(request: RequestMeter, ceilings: Ceilings | None) -> dict[str, object]:
    """Seconds of the request's steps beyond their limit, and their shares of the steps' time."""
    wall = request.prefill.wall_s + request.decode.wall_s
    host = request.prefill.host_s + request.decode.host_s
    other = _inside(request) if ceilings else None
    return {
        "host_s": _short(host),
        "host_share": _short(host / wall if wall > 0 else None),
        "other_s": _short(other),
        "other_share": _short(other / wall if other is not None and wall > 0 else None),
    }


def _unattributed(request: RequestMeter, meter: Meter) -> dict[str, object]:
    """The share of decoding's time that `split` cannot attribute."""
    return {"unattributed_share": split(request.decode, meter).get("unattributed_share")}


def _inside(request: RequestMeter) -> float:
    """Device seconds beyond the limit."""
    return max(0.0, request.prefill.seconds + request.decode.seconds - request.prefill.limit_s - request.decode.limit_s)


def _advice(request: RequestMeter, meter: Meter, queue_s: float) -> str:
    """One sentence naming the lever that would save most of this request's time, and how much."""
    if meter.ceilings is None:
        return "The machine was not measured yet: run redline doctor, and receipts will say how far this is from its limit."
    wall = request.prefill.wall_s + request.decode.wall_s
    limit = request.prefill.limit_s + request.decode.limit_s
    if wall <= 0:
        return "This request ended before it ran, so there is nothing to hold against a limit."
    if limit > wall * _FASTER_THAN_LIMIT:
        return "This ran faster than the measured limit, so the measurement was disturbed: run redline doctor --measure on a quiet machine."
    total = wall + queue_s
    saved, lever = max(
        (queue_s, "waiting in the queue: raise --max-num-seqs, or share the load with a second server"),
        (
            request.prefill.host_s + request.decode.host_s,
            "the device waiting for the host between steps: fewer, larger steps help",
        ),
        (_inside(request), "inside the steps, in kernels that stay below the measured rates and in their launches"),
        (
            _packed_saving(request.decode, meter),
            f"the weights' format: in memory they are {meter.dtype}, larger than in the file",
        ),
    )
    if saved <= 0.05 * total:
        return "This ran within 5 % of the limit: only fewer bytes (a smaller format or model) would make it faster."
    return f"The largest lever is {lever} (up to {total / max(total - saved, 0.01 * total):.1f}x)."


def _packed_saving(decode: Totals, meter: Meter) -> float:
    """Seconds that decode steps would have saved at the limit, had they read the file's bytes instead of memory's."""
    floor = meter.file_floor_s
    if floor is None or meter.ceilings is None:
        return 0.0
    return max(0.0, decode.weight_bytes / meter.ceilings.read_bytes_per_s - decode.steps * floor)


def _ratio(total: Totals, ceilings: Ceilings | None) -> float | None:
    return _short(total.limit_s / total.wall_s) if ceilings and total.wall_s > 0 else None


def _milli(seconds: float | None) -> float | None:
    return None if seconds is None else _short(seconds * 1e3)


def _whole(amount: float, tokens: int) -> int | None:
    return round(amount / tokens) if tokens else None


def _short(value: float | None) -> float | None:
    """Four significant digits: more would be noise."""
    return None if value is None else float(f"{value:.4g}")
