"""The limit of every step beside what it took: sums over an engine's steps, and over those that a request took part in.

Time is wall time of the steps: the device's seconds and the seconds the device waited for the host before them. Without
measured ceilings there is no limit. What is told of the sums is receipt.py's business. Open `Meter` first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from redline.hardware.ceilings import Ceilings
from redline.plan.anatomy import OVER, Anatomy, Fit
from redline.plan.contract import Contract, Doing, Predictor
from redline.plan.roofline import Cost, StepWork, cost, limit_parts, prompt_seconds
from redline.shapes import ModelShape

Phase = Literal["prefill", "decode"]

USUAL_SHARE = 0.8  # of the matrix rate, in long chunks of a prompt


@dataclass(frozen=True, slots=True)
class Due:
    """What a step must do, known before it ends: bytes and FLOPs, and the two parts of its limit, weights and attention, in seconds
    (`roofline.limit_parts`; None: no ceilings)."""

    work: StepWork
    cost: Cost
    limit: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class StepLimit:
    """One step: its limit (None: no ceilings), what it took, the bytes it had to move and the FLOPs it had to do.

    `kv_limit_s` is the part of the limit that falls to attention; `padding_s` what the empty rows among `rows` add to it.
    Of a decode step `fixed_s` is what any of so many rows takes, `sampling_s` included, and `grown_s` what its KV takes
    (anatomy.py): the two are what such a step takes, and what this one took beyond them nobody can attribute.
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
    tokens: int = 0  # that it computed
    promised_s: float = 0.0  # wall time that was expected of it, by what was known before; 0 without ceilings
    fixed_s: float = 0.0
    grown_s: float = 0.0
    sampling_s: float = 0.0


@dataclass(slots=True)
class Totals:
    """Sums over steps; the names are those of `StepLimit`. `limit_s` stays 0 without ceilings.

    `tokens` are those of whoever the sums are for, and `share_s` is what falls to them if each token of a step has an equal
    part of its time: energy is shared so. `token_s` sums up the part of one token.
    """

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
    promised_s: float = 0.0
    fixed_s: float = 0.0
    grown_s: float = 0.0
    sampling_s: float = 0.0
    share_s: float = 0.0
    token_s: float = 0.0

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
        self.promised_s += step.promised_s
        self.fixed_s += step.fixed_s
        self.grown_s += step.grown_s
        self.sampling_s += step.sampling_s
        if step.tokens:
            part = (step.seconds + step.host_s) / step.tokens
            self.token_s += part
            self.share_s += tokens * part

    def copy(self) -> Totals:
        return replace(self)

    def add_between(self, before: Totals, after: Totals, tokens: int) -> None:
        """All steps between two states of one sum, in each of which `tokens` tokens count."""
        steps = after.steps - before.steps
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(after, name) - getattr(before, name))
        self.tokens += steps * tokens
        self.share_s += tokens * (after.token_s - before.token_s)


_SUMS = tuple(item.name for item in fields(Totals) if item.name not in ("tokens", "share_s"))


class Meter:
    """Holds every step of an engine against the roofline. `totals` by phase are for metrics.

    `anatomies`, by rows, are what is known of the kernels of its decode steps; whoever watches one may add it. Nobody has to:
    how steps of as many rows differ tells attention from the rest (`anatomy.Fit`).

    `weight_bytes` and `kv_bytes` are bytes per element as they lie in memory, `dtype` the type that is multiplied,
    `file_bytes` the weights' own size in the checkpoint, `device` a name for people. `promiser` makes the contract's promises
    for the ceilings there are; without it they are `contract.FIRST`.
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
        promiser: Callable[[Ceilings], Predictor] | None = None,
    ):
        self.dtype = dtype
        self.ceilings = ceilings
        self.file_bytes = file_bytes
        self.device = device or (ceilings.name if ceilings else "this device")
        self.anatomies: dict[int, Anatomy] = {}
        self.totals: dict[Phase, Totals] = {"prefill": Totals(), "decode": Totals()}
        self._fits: dict[int, Fit] = {}  # of decode steps, by rows
        self._contract = Contract()
        self._promiser = promiser
        self._promised_by: Ceilings | None = None
        self._shape = shape
        self._weight_bytes = weight_bytes
        self._kv_bytes = kv_bytes

    @property
    def contract(self) -> Contract:
        """Every step so far against what was promised of it, by the ceilings there are now."""
        if self._promiser is not None and self.ceilings is not self._promised_by:
            self._contract.promise(None if self.ceilings is None else self._promiser(self.ceilings))
            self._promised_by = self.ceilings
        return self._contract

    def cost(self, work: StepWork) -> Cost:
        """Bytes and FLOPs of a step of this engine."""
        return cost(self._shape, self._weight_bytes, self._kv_bytes, work)

    def due(self, work: StepWork) -> Due:
        """What `step` will need of a step: reckoned while the device computes it, nobody waits for that."""
        needs = self.cost(work)
        return Due(work, needs, None if self.ceilings is None else limit_parts(needs, self.ceilings, self.dtype))

    def step(
        self,
        due: Due,
        seconds: float,
        host_s: float,
        padding: int = 0,
        *,
        sampling_s: float = 0.0,
        captured: bool = False,
        mixed: bool = False,
    ) -> StepLimit:
        """Account a step that has ended: `seconds` of the device, `sampling_s` of them to sample, before which it waited `host_s` for
        the host.

        `padding` empty rows were computed beside those that were `due`, if it was `captured` as one graph. A step with any prompt
        token beyond one per sequence counts as prefill in `totals`, `mixed` with answer tokens or not.
        """
        work, needs = due.work, due.cost
        decodes = work.tokens <= work.sequences
        limit: float | None = None
        kv = empty = promised = fixed = grown = 0.0
        kv_bytes = needs.kv_read_bytes + needs.kv_write_bytes
        if self.ceilings is not None and due.limit is not None:
            weights, kv = due.limit
            limit = weights + kv
            empty = self._padded(work, padding, self.ceilings) - weights if padding else 0.0
            doing: Doing = "decode" if decodes else "mixed" if mixed else "prefill"
            promised = self.contract.step(doing, work, limit, seconds + host_s)
            if decodes:
                fit = self._fits.setdefault(work.sequences + padding, Fit())
                fixed, grown = fit.step(kv_bytes, kv, seconds)
        step = StepLimit(
            limit_s=limit,
            seconds=seconds,
            host_s=host_s,
            weight_bytes=needs.weight_bytes,
            kv_bytes=kv_bytes,
            flops=needs.flops,
            kv_limit_s=kv,
            padding_s=empty,
            rows=work.sequences + padding,
            captured=captured,
            tokens=work.tokens,
            promised_s=promised,
            fixed_s=fixed,
            grown_s=grown,
            sampling_s=sampling_s,
        )
        self.totals["decode" if decodes else "prefill"].add(step, work.tokens)
        return step

    def limit_s(self, work: StepWork) -> float | None:
        """The limit of a step that nobody has taken; None: no ceilings."""
        return sum(limit_parts(self.cost(work), self.ceilings, self.dtype)) if self.ceilings else None

    def _padded(self, work: StepWork, padding: int, ceilings: Ceilings) -> float:
        """What reading weights and multiplying by them takes at least with so many empty rows beside those of `work`, in seconds."""
        padded = replace(work, tokens=work.tokens + padding, logit_rows=work.logit_rows + padding)
        return limit_parts(self.cost(padded), ceilings, self.dtype)[0]

    def prompt_seconds(self, share: float = USUAL_SHARE) -> tuple[float, float] | None:
        """What a prompt token takes, and each pair of it and a token that it sees, at a share of the matrix rate; None: not known."""
        rate = self.ceilings.matmul_flops.get(self.dtype) if self.ceilings else None
        return prompt_seconds(self._shape, share * rate) if rate else None

    def over(self, total: Totals) -> dict[str, float] | None:
        """What decode steps took beyond the limit and its padding, in seconds by `OVER`; None: nothing is known of them.

        Where steps of exactly so many rows were watched, as their kernels say. Else there are no "launches": they lie within
        "weights_over".
        """
        if not total.fixed_s or self.ceilings is None:
            return None
        rows, rest = divmod(total.rows, total.steps)
        seen = self.anatomies.get(rows) if not rest else None
        weights_limit = total.limit_s - total.kv_limit_s + total.padding_s
        if seen is None:
            weights = total.fixed_s - total.sampling_s - weights_limit
            return {"weights_over": weights, "kv_over": total.grown_s - total.kv_limit_s, "sampling": total.sampling_s}
        kv = seen.kv_s * total.kv_bytes / seen.kv_bytes if seen.kv_bytes else seen.kv_s * total.steps
        rest_s = (seen.weights_s * total.steps - weights_limit, kv - total.kv_limit_s)
        return dict(zip(OVER, (*rest_s, seen.sampling_s * total.steps, seen.launches_s * total.steps), strict=True))

    def causes(self, phase: Phase) -> dict[str, float]:
        """What the wall time of all steps of a phase went into, in seconds that add up to it; empty without ceilings.

        `weights` and `kv` are the limit. Beyond it: `host`, `padding`, of decode steps `OVER`, and `unattributed`.
        """
        total = self.totals[phase]
        if self.ceilings is None:
            return {}
        known = {"weights": total.limit_s - total.kv_limit_s, "kv": total.kv_limit_s, "host": total.host_s}
        known |= {"padding": total.padding_s, **(self.over(total) or {})}
        return known | {"unattributed": total.wall_s - sum(known.values())}

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
