"""The receipt of a request, made from its steps: how far from the machine's limit, where the rest went, what it cost.

A ratio is limit over time: 1 is the machine's limit. Without measured ceilings there is no limit, and every figure that
needs one is null with the reason beside it. The sums come from meter.py. Open `receipt` first, then `split`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redline.hardware.ceilings import Ceilings
from redline.hardware.power import Reading
from redline.plan.advice import advice, inside_s
from redline.plan.anatomy import OVER
from redline.plan.anatomy import Anatomy as Anatomy
from redline.plan.meter import Meter as Meter
from redline.plan.meter import RequestMeter as RequestMeter
from redline.plan.meter import StepLimit as StepLimit
from redline.plan.meter import Totals as Totals

NO_POWER = "nobody counts the energy of this engine"
NOT_MEASURED = "not measured yet: run redline doctor"


def receipt(
    request: RequestMeter,
    meter: Meter,
    *,
    queue_s: float,
    time_to_first_token_s: float | None,
    cached_tokens: int,
    power: Reading | None = None,
) -> dict[str, object]:
    """The receipt of one request, JSON-able. Seconds, GB/s and TFLOP/s in powers of ten; null where unknown.

    `bytes_per_token` holds whole steps' bytes over the request's own tokens. `rest` splits what its steps took beyond
    the limit: waiting for the host, and the rest inside the steps; `step` is its mean decode step, part by part (`split`).
    `promised_s` is what was expected of its steps by the plan and what was learned before each of them. `energy` is that of
    its part of each step, by `power`: each token of a step has an equal part. `reason` says why figures are null.
    """
    ceilings = meter.ceilings
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
            "promised_s": _short(request.prefill.promised_s) if ceilings else None,
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
        "energy": _energy(request, power),
        "advice": advice(request, meter, queue_s, power),
    }


def split(total: Totals, meter: Meter) -> dict[str, object]:
    """Where the mean step of `total` went, in milliseconds, JSON-able; for decode steps, but true of any.

    `ms` is `device_ms` and `host_ms`, the wait for the host before it. `device_ms` is what reading the weights and the KV
    takes at the limit, what empty rows of a graph add to that (`padding_ms`), what goes beyond it for what is the same in every
    step of so many rows (`weights_over_ms`) and for what grows with the KV (`kv_over_ms`), sampling, and what is left, by
    which steps differ for no known reason: `unattributed_ms`. Where somebody watched the kernels of such a step
    (`Meter.anatomies`), they tell the gaps between kernels apart (`launches_ms`, else null and part of `weights_over_ms`).
    """
    steps = total.steps
    if not steps:
        return {"steps": 0}
    limits = (total.limit_s - total.kv_limit_s, total.kv_limit_s, total.padding_s) if meter.ceilings else (None, None, None)
    over = meter.over(total)
    left = None
    if meter.ceilings:
        left = total.seconds - total.limit_s - total.padding_s - (sum(over.values()) if over else 0.0)
    parts = {
        "weights": limits[0],
        "kv": limits[1],
        "padding": limits[2],
        **dict.fromkeys(OVER),
        **(over or {}),
        "unattributed": left,
    }
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
    """A receipt in a few lines for people."""
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
    if (said := _promise_and_energy(receipt)) is not None:
        lines.append(said)
    prompt = f"prompt: {prefill['tokens']} tokens in {prefill['seconds']:.2f} s"
    if prefill["cached_tokens"]:
        prompt += f", {prefill['cached_tokens']} more from the cache"
    if prefill["ratio"] is not None:
        prompt += f", {prefill['ratio']:.0%} of the limit"
    if receipt["time_to_first_token_s"] is not None:
        prompt += f"; first token after {receipt['time_to_first_token_s']:.2f} s ({receipt['queue_s']:.2f} s in the queue)"
    return "\n".join([*lines, prompt, receipt["advice"]])


def _promise_and_energy(receipt: Mapping[str, Any]) -> str | None:
    """What was expected of a token, and what it cost, as far as both are known."""
    decode, energy = receipt["decode"], receipt["energy"]
    parts = []
    if decode["promised_ms_per_token"]:
        parts.append(f"{decode['promised_ms_per_token']:.2f} ms a token were expected, {decode['ms_per_token']:.2f} it took")
    if energy["joules_per_token"] is not None:
        idle = (
            f", {energy['idle_joules'] / energy['joules']:.0%} of it idle" if energy["idle_joules"] and energy["joules"] else ""
        )
        parts.append(f"{energy['joules_per_token']:.3g} J a token{idle}")
    return "; ".join(parts) or None


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
        "promised_ms_per_token": _milli(total.promised_s / total.tokens if ceilings and total.tokens else None),
        "ratio": _ratio(total, ceilings),
        "share_of_bandwidth": _short(bandwidth),
    }


def _rest(request: RequestMeter, ceilings: Ceilings | None) -> dict[str, object]:
    """Seconds of the request's steps beyond their limit, and their shares of the steps' time."""
    wall = request.prefill.wall_s + request.decode.wall_s
    host = request.prefill.host_s + request.decode.host_s
    other = inside_s(request) if ceilings else None
    return {
        "host_s": _short(host),
        "host_share": _short(host / wall if wall > 0 else None),
        "other_s": _short(other),
        "other_share": _short(other / wall if other is not None and wall > 0 else None),
    }


def _energy(request: RequestMeter, power: Reading | None) -> dict[str, object]:
    """Joules of the request's part of its steps; `idle_joules` of them the device takes in that time without any work."""
    if power is None:
        power = Reading(None, None, 0.0, None, NO_POWER)
    share_s = request.prefill.share_s + request.decode.share_s
    watts, idle, tokens = power.watts, power.idle_watts, request.decode.tokens
    return {
        "joules": _short(None if watts is None else watts * share_s),
        "idle_joules": _short(None if watts is None or idle is None else min(watts, idle) * share_s),
        "prefill_joules": _short(None if watts is None else watts * request.prefill.share_s),
        "joules_per_token": _short(None if watts is None or not tokens else watts * request.decode.share_s / tokens),
        "watts": _short(watts),
        "idle_watts": _short(idle),
        "over_s": _short(power.over_s),
        "throttled": None if power.throttled is None else list(power.throttled),
        "reason": power.reason,
    }


def _unattributed(request: RequestMeter, meter: Meter) -> dict[str, object]:
    """The share of decoding's time that `split` cannot attribute."""
    return {"unattributed_share": split(request.decode, meter).get("unattributed_share")}


def _ratio(total: Totals, ceilings: Ceilings | None) -> float | None:
    return _short(total.limit_s / total.wall_s) if ceilings and total.wall_s > 0 else None


def _milli(seconds: float | None) -> float | None:
    return None if seconds is None else _short(seconds * 1e3)


def _whole(amount: float, tokens: int) -> int | None:
    return round(amount / tokens) if tokens else None


def _short(value: float | None) -> float | None:
    """Four significant digits: more would be noise."""
    return None if value is None else float(f"{value:.4g}")
