"""What a model will take on a place, before anything is loaded: seconds of steps, tokens per second, joules, with error bars.

A step is the roofline's stages over the shares that such stages reach (`efficiency.py`), plus what no stage counts and what
chips say to each other (`split.py`). An error bar is the root of the sum of squares of its doubts, each of which is named;
no value lies below the limit, which is the same stages at the ceilings, with nothing between them. Torch-free, some
hundred microseconds a step. Open `Predictor`, then `Predictor.step`.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redline.hardware.ceilings import Ceilings
from redline.plan.efficiency import at
from redline.plan.links import Links
from redline.plan.place import Place
from redline.plan.power_cap import Grip, grip, slowdown
from redline.plan.precision import HALF, KvFormat, WeightFormat
from redline.plan.roofline import Stage, StepWork, cost, weight_parts
from redline.plan.split import ALL_REDUCE_S, Layout, collective_bytes, latency_s, rank_shape, stage_bytes
from redline.shapes import ModelShape

if TYPE_CHECKING:
    from redline.plan.contract import Doing

_ATTENTION = frozenset(("attention", "attention_sliding"))
_SIDE = frozenset(("kv_write", "embedding", "norms"))  # in `layer_s`, as small kernels, or part of another stage's kernel
FEW_QUERIES = 16  # new tokens of a sequence that decode attention takes at once
PLANNED_DOUBT = (
    0.2  # kernels for a format that do not exist yet: published ones differ by so much (4 bits: 37 to 70 % of bandwidth)
)
PARALLEL_DOUBT = 0.15  # per doubling of the group: nothing was measured but two cards
POWER_DOUBT = 0.15  # between joules of one model and another at the same rows
OTHER_POWER_DOUBT = 0.3  # a chip whose joules were not measured
SWAP_SHARE = 0.8  # of a host link's rate, in copies from pinned memory
SWAP_DOUBT, MEASURED_SWAP_DOUBT = 0.25, 0.1  # one long copy is measured; weights come as many


@dataclass(frozen=True)
class Estimate:
    """A forecast with its error bar, in the unit of its name; `limit` is what the machine cannot beat (None: nothing limits it)."""

    value: float
    low: float
    high: float
    limit: float | None = None

    @classmethod
    def of(cls, value: float, error: float, limit: float | None = None) -> Estimate:
        """`error` is a share of the value, either way; the bar does not go past the limit."""
        low = value / (1 + error)
        return cls(value, low if limit is None else max(low, limit), value * (1 + error), limit)

    @property
    def error(self) -> float:
        """The bar upwards, as a share of the value."""
        return self.high / self.value - 1

    def times(self, factor: float) -> Estimate:
        limit = None if self.limit is None else self.limit * factor
        return Estimate(self.value * factor, self.low * factor, self.high * factor, limit)

    def inverse(self, of: float = 1.0) -> Estimate:
        """`of` over this: a rate from a time, whose limit is an upper one."""
        return Estimate(of / self.value, of / self.high, of / self.low, of / self.limit if self.limit else None)

    def as_dict(self, scale: float = 1.0) -> dict[str, float | None]:
        limit = None if self.limit is None else short(self.limit * scale)
        return {
            "value": short(self.value * scale),
            "low": short(self.low * scale),
            "high": short(self.high * scale),
            "limit": limit,
        }


@dataclass(frozen=True, slots=True)
class Part:
    """One stage of a step over all layers: what it takes, its limit, and which resource that limit is of.

    `ratio` is its time of multiplying over that of reading.
    """

    name: str
    seconds: float
    limit_s: float
    bytes: float
    flops: float
    bound: str  # "memory", "compute", "link", "overhead"
    ratio: float = 0.0


@dataclass(frozen=True)
class Step:
    """One step of the whole model. `parts` add up to `seconds` (value) and their limits to the limit."""

    seconds: Estimate
    parts: tuple[Part, ...]
    tokens: int

    def corrected(self, value: float, error: float) -> Step:
        """The same step taking `value` seconds, though no less than its limit: parts grow alike, and shrink towards their limits."""
        was, limit = self.seconds.value, self.seconds.limit or 0.0
        value = max(value, limit)
        over = (value - limit) / (was - limit) if was > limit else 1.0
        shares = [
            value / was * part.seconds if value > was else part.limit_s + over * (part.seconds - part.limit_s)
            for part in self.parts
        ]
        parts = tuple(dataclasses.replace(part, seconds=seconds) for part, seconds in zip(self.parts, shares, strict=True))
        return Step(Estimate.of(value, error, limit), parts, self.tokens)

    def slower(self, held: Grip) -> Step:
        """The same step at a clock that a power cap holds down. Links have a clock of their own."""
        if held.clock >= held.base:
            return self
        parts = tuple(
            part
            if part.bound == "link"
            else dataclasses.replace(part, seconds=part.seconds * slowdown(held.clock, held.base, part.ratio))
            for part in self.parts
        )
        error = math.hypot(self.seconds.error, held.doubt)
        return Step(Estimate.of(sum(part.seconds for part in parts), error, self.seconds.limit), parts, self.tokens)

    @property
    def limiting(self) -> str:
        """The resource that takes most of the step."""
        shares: dict[str, float] = {}
        for part in self.parts:
            shares[part.bound] = shares.get(part.bound, 0.0) + part.seconds
        return max(shares, key=shares.__getitem__)


@dataclass(frozen=True)
class Load:
    """`users` at once, each with prompts of `prompt` tokens and answers of `output`."""

    users: int
    prompt: int
    output: int

    @property
    def context(self) -> int:
        """Tokens that a decode step of an answer sees on average."""
        return self.prompt + (self.output + 1) // 2


@dataclass(frozen=True)
class Steady:
    """A load in the steady state: seconds between tokens (usual, and beside a prompt), seconds to a first token, tokens/s of all."""

    itl: Estimate
    worst_itl: Estimate
    ttft: Estimate
    tokens_per_s: Estimate


class Predictor:
    """Forecasts for one model in one format in one layout on one place.

    `kv` is the KV cache's format. `tokens` is the budget of a step (`max_num_batched_tokens`). Where the place has learned what
    steps of this model take, `corrections` has that, and steps follow it.
    """

    def __init__(
        self, shape: ModelShape, place: Place, weights: WeightFormat, kv: KvFormat, layout: Layout, *, tokens: int = 8192
    ):
        self.shape = shape
        self.place = place
        self.weights = weights
        self.kv = kv
        self.layout = layout
        self.tokens = tokens
        # One chip's share of every layer: a stage of a pipeline has fewer of them, but a token passes all.
        self._rank = rank_shape(shape, Layout(layout.tensor))
        self._bits = _stage_bits(self._rank, weights)
        self.doubts = _doubts(place, weights, kv, layout)
        runs = place.learned is not None and weights.runs and kv.runs
        self.corrections = place.learned.find(shape, weights.name, kv.name, layout) if place.learned and runs else None
        self._decodes: dict[tuple[int, int, int], Step] = {}  # what was asked before: a search asks again and again
        self._steadies: dict[Load, Steady] = {}

    @property
    def error(self) -> float:
        """The share by which a step may lie off, either way."""
        return math.sqrt(sum(share * share for _, share in self.doubts))

    def step(self, prompts: Sequence[tuple[int, int]], decodes: int = 0, context: int = 0) -> Step:
        """A step of prompt chunks, given as (tokens before, new tokens), and of `decodes` sequences that see `context` tokens."""
        spans = [*prompts, *([(max(0, context - 1), 1)] * decodes)]
        # Of a pipeline each of the parts that the batch is cut into reads the weights again.
        part = _share(spans, self.layout.pipeline)
        window = self._rank.sliding_window
        work = StepWork.of(part, logit_rows=len(part), window=window)
        kinds = ([span for span in part if span[1] <= FEW_QUERIES], [span for span in part if span[1] > FEW_QUERIES])
        few, many = (
            (work if len(kind) == len(part) else StepWork.of(kind, logit_rows=len(kind), window=window)) if kind else None
            for kind in kinds
        )
        doing: Doing = "decode" if work.tokens <= work.sequences else "mixed" if decodes else "prefill"
        step = self._corrected(self._step(work, few, many), doing, work)
        held = grip(self.place, work.tokens)
        return step if held is None else step.slower(held)

    def _corrected(self, step: Step, doing: Doing, work: StepWork) -> Step:
        """`step` by what was seen of such steps; what was promised of them is what `of_work` says."""
        if self.corrections is None:
            return step
        promised = (self.of_work(work) if doing == "mixed" else step).seconds.value
        found = self.corrections.of(doing, work.tokens, promised, self.error)
        return step if found is None else step.corrected(promised * found.factor, found.bar)

    def of_work(self, work: StepWork) -> Step:
        """A step of which only the sums are known, on one chip: its attention counts as all of decoding, or all of prompts.

        As the curves have it, without corrections: this is what those were measured against.
        """
        prompted = work.tokens > FEW_QUERIES * work.sequences
        return self._step(work, None if prompted else work, work if prompted else None)

    def _step(self, work: StepWork, few: StepWork | None, many: StepWork | None) -> Step:
        """`few` and `many` are the parts of `work` whose sequences bring few new tokens and many."""
        curves, size, kv_bytes = self.place.efficiency, self.shape.head_size, self.kv.bits / 8
        linear = cost(self._rank, self.weights.bits / 8, kv_bytes, work)
        found = [self._linear(stage, work) for stage in linear.stages if stage.name not in _ATTENTION | _SIDE]
        reading: list[Part] = []
        for kind, points in ((few, curves.decode_attention), (many, curves.prompt_attention)):
            if kind is not None:
                stages = linear.stages if kind is work else cost(self._rank, 0, kv_bytes, kind).stages
                share = at(points, size)
                reading += [self._part(stage, self.place.dtype, share) for stage in stages if stage.name in _ATTENTION]
        if few is not None and many is not None:
            # One kernel might read for some while it multiplies for others: the limit is that of both together.
            both = [
                max(_seconds(stage, self.place.peak, self.place.dtype)) for stage in linear.stages if stage.name in _ATTENTION
            ]
            fit = sum(both) / sum(part.limit_s for part in reading)
            reading = [dataclasses.replace(part, limit_s=part.limit_s * fit) for part in reading]
        found += reading
        found += self._rest(linear.stages, work, prompted=work.tokens > work.sequences)
        found += self._link(work)
        value, limit = sum(part.seconds for part in found), sum(part.limit_s for part in found)
        return Step(Estimate.of(max(value, limit), self.error, limit), tuple(found), work.tokens)

    def _linear(self, stage: Stage, work: StepWork) -> Part:
        rows = work.logit_rows if stage.name == "lm_head" else work.tokens
        dtype = self._multiplies(stage.name)
        due = Stage(stage.name, stage.bytes * self._bits[stage.name] / self.weights.bits, stage.flops)
        return self._part(due, dtype, at(self.place.efficiency.linear, rows))

    def _rest(self, stages: Sequence[Stage], work: StepWork, *, prompted: bool) -> list[Part]:
        """Stages that are parts of other kernels, sampling, and what no stage counts."""
        curves, peak = self.place.efficiency, self.place.peak.read_bytes_per_s
        side = sum(stage.bytes for stage in stages if stage.name in _SIDE)
        logits = work.logit_rows * self._rank.vocab_size * 4 * curves.logit_passes
        seconds = self.shape.num_layers * at(curves.layer_s, work.tokens) + curves.step_s + (curves.prompt_s if prompted else 0.0)
        return [
            Part("sampling", logits / self.place.ceilings.read_bytes_per_s, 0.0, logits, 0.0, "memory"),
            Part("launches and small kernels", max(seconds, side / peak), side / peak, side, 0.0, "overhead"),
        ]

    def _link(self, work: StepWork) -> list[Part]:
        """What chips say to each other; nothing on one chip. A link that is not known counts at its latency alone.

        Sums that were measured here take what they took; the limit stays the line rate's, which another way to sum may reach.
        """
        if self.layout.chips == 1:
            return []
        moved = collective_bytes(self.shape, self.layout, work.tokens, work.logit_rows) + stage_bytes(
            self.shape, self.layout, work.tokens
        )
        line, links = self.place.link_bytes_per_s, self.place.links or Links()
        least = moved / line if line else 0.0
        taken = moved / links.sums_bytes_per_s if links.sums_bytes_per_s else least / self.place.efficiency.linear[-1][1]
        seconds = max(taken, least) + latency_s(self.shape, self.layout, links.round_s or ALL_REDUCE_S)
        return [Part("collectives", seconds, least, moved, 0.0, "link")]

    def _part(self, stage: Stage, dtype: str, share: float) -> Part:
        reading, multiplying = _seconds(stage, self.place.ceilings, dtype)
        limit = max(_seconds(stage, self.place.peak, dtype))
        bound = "memory" if reading >= multiplying else "compute"
        ratio = multiplying / reading if reading else math.inf
        return Part(stage.name, max(reading, multiplying) / share, limit, stage.bytes, stage.flops, bound, ratio)

    def _multiplies(self, stage: str) -> str:
        """The type that a stage's products are of: the format's own where the chip has it, and the activations' for the head."""
        own = self.weights.multiplies
        if own is not None and stage != "lm_head" and own in self.place.native and self.place.rate(own):
            return own
        return self.place.dtype if self.weights.name != "float32" else "float32"

    def budgeted(self, tokens: int) -> Predictor:
        """The same with another budget of a step. What either has reckoned of decoding the other knows."""
        other = copy.copy(self)
        other.tokens = tokens
        other._steadies = {}
        return other

    def decode(self, users: int, context: int, drafts: int = 0) -> Step:
        """A decode step of `users` sequences that each see `context` tokens, the new one and those drafted for it included."""
        key = users, context, drafts
        found = self._decodes.get(key)
        if found is None:
            found = self._decodes[key] = self.step([(max(0, context - drafts - 1), drafts + 1)] * users)
        return found

    def prefill(self, prompts: int, tokens: int) -> list[Step]:
        """The steps that take `prompts` whole prompts of `tokens` tokens to their first tokens on an idle engine."""
        steps, left = [], [(0, tokens)] * prompts
        while left:
            room, taken, rest = self.tokens, [], []
            for start, count in left:
                now = min(room, count)
                room -= now
                if now:
                    taken.append((start, now))
                if now < count:
                    rest.append((start + now, count - now))
            steps.append(self.step(taken))
            left = rest
        return steps

    def first_token(self, prompt: int, prompts: int = 1) -> Estimate:
        """Seconds to the first token of `prompts` prompts that arrive together at an idle engine.

        The first step is a burst; under a power cap by as much, where none was measured. What was learned here has bursts in it.
        """
        steps = self.prefill(prompts, prompt)
        if self.corrections is None:
            first = steps[0].seconds
            steps[0] = steps[0].corrected(first.value * at(self.place.efficiency.burst, steps[0].tokens), first.error)
        return _sum([step.seconds for step in steps])

    def steady(self, load: Load) -> Steady:
        """What users see who ask again at once.

        While an answer is written every user's prompt has to be computed once. A first token waits for half the step that runs, and
        for its own prompt's steps with everybody's tokens in them.
        """
        found = self._steadies.get(load)
        if found is None:
            found = self._steadies[load] = self._steady(load)
        return found

    def _steady(self, load: Load) -> Steady:
        decode = self.decode(load.users, load.context).seconds
        chunk = min(load.prompt, max(1, self.tokens - load.users))
        mixed = self.step([(0, chunk)], max(0, load.users - 1), load.context).seconds
        last = mixed
        if load.prompt > chunk:  # later chunks see those before them
            last = self.step([(load.prompt - chunk, chunk)], max(0, load.users - 1), load.context).seconds
        chunks = -(-load.prompt // chunk)
        prompt = _middle(mixed, last).times(chunks)
        waiting = 0.5 if load.users > 1 else 0.0
        first = _sum([decode.times(waiting), prompt])
        added = load.users * max(0.0, prompt.value - chunks * decode.value)
        added_floor = load.users * max(0.0, (prompt.limit or 0.0) - chunks * (decode.limit or 0.0))
        answer_s, floor = load.output * decode.value + added, load.output * (decode.limit or 0.0) + added_floor
        plain = self.corrections is None and not self._held
        error = self.error if plain else max(decode.error, last.error)
        between = Estimate.of(answer_s / load.output, error, floor / load.output)
        return Steady(decode, last if load.users > 1 else decode, first, between.inverse(load.users))

    def joules_per_token(self, load: Load) -> Estimate | None:
        """Of an output token, prompts included; None where the chip's power is not known or nobody measured its shares."""
        watts = self.mean_watts(load)
        if watts is None:
            return None
        rate = self.steady(load).tokens_per_s
        plain = self.corrections is None and not self._held
        error = math.hypot(self.error if plain else rate.value / rate.low - 1, self._power_doubt)
        return Estimate.of(watts.value * self.layout.chips / rate.value, error)

    def mean_watts(self, load: Load) -> Estimate | None:
        """What one chip takes on average, steps with prompts at their power; no more than the limit in force or the cap."""
        chunk = min(load.prompt, max(1, self.tokens - load.users))
        decode, prompt = grip(self.place, load.users), grip(self.place, chunk + load.users - 1)
        if decode is None or prompt is None or self.place.power_w is None:
            return None
        steady = self.steady(load)
        waiting = 0.5 * steady.itl.value if load.users > 1 else 0.0
        answer_s = load.output * load.users / steady.tokens_per_s.value
        prompted = min(1.0, load.users * (steady.ttft.value - waiting) / answer_s)
        value = prompted * prompt.watts + (1 - prompted) * decode.watts
        most = min(self.place.power_w, self.place.cap_w or math.inf)
        found = Estimate.of(value, self._power_doubt)
        return dataclasses.replace(found, high=max(value, min(found.high, most)))

    @property
    def _power_doubt(self) -> float:
        return POWER_DOUBT if self.place.measured else OTHER_POWER_DOUBT

    @property
    def _held(self) -> bool:
        """Whether a lower limit is in force or planned than that of the place's rates."""
        place = self.place
        return place.cap_w is not None or (not place.measured and place.power_full_w not in (None, place.power_w))

    def swap_s(self, weight_bytes: float) -> Estimate | None:
        """Seconds to bring one chip's weights from host memory; None where the way to the chip is not known."""
        line, measured = self.place.host_bytes_per_s, (self.place.links or Links()).host_bytes_per_s
        if measured is not None:
            return Estimate.of(weight_bytes / measured, MEASURED_SWAP_DOUBT, weight_bytes / max(measured, line or 0.0))
        if line is None:
            return None
        return Estimate.of(weight_bytes / line / SWAP_SHARE, SWAP_DOUBT, weight_bytes / line)


def _seconds(stage: Stage, ceilings: Ceilings, dtype: str) -> tuple[float, float]:
    """(reading, multiplying) at `ceilings`; a rate that is not known costs nothing."""
    rate = ceilings.matmul_flops.get(dtype)
    return stage.bytes / ceilings.read_bytes_per_s, stage.flops / rate if rate else 0.0


def _stage_bits(shape: ModelShape, weights: WeightFormat) -> dict[str, float]:
    """Bits per weight by stage of `roofline.cost`; values are a part of its qkv, and the router stays in 16 bits."""
    counts = dict(weight_parts(shape))
    bits = {name: weights.part_bits(name) for name in counts}
    qkv = counts["qkv"] + counts["value"]
    bits["qkv"] = (counts["qkv"] * bits["qkv"] + counts["value"] * bits["value"]) / qkv
    if "router" in bits and not weights.runs:
        bits["router"] = HALF
    return bits


def _doubts(place: Place, weights: WeightFormat, kv: KvFormat, layout: Layout) -> tuple[tuple[str, float], ...]:
    """(reason, share) of everything that may make a forecast lie off."""
    curves = place.efficiency
    found = [
        (f"curves of {curves.num_points} measured steps, each left out of a fit in turn ({curves.source})", curves.error),
        *place.doubts,
    ]
    planned = [entry.name for entry in (weights, kv) if not entry.runs]
    if planned:
        found.append((f"no kernel was measured for {' and '.join(dict.fromkeys(planned))}", PLANNED_DOUBT))
    if layout.chips > 1:
        found.append(("nothing of this version was measured on several chips", PARALLEL_DOUBT * math.log2(2 * layout.chips) / 2))
        if place.link_bytes_per_s is None and (place.links or Links()).sums_bytes_per_s is None:
            found.append(("the rate of the link between the chips is not known", PLANNED_DOUBT))
    return tuple(found)


def _share(spans: Sequence[tuple[int, int]], parts: int) -> Sequence[tuple[int, int]]:
    """The largest of so many equal parts of a batch, a span being the least."""
    return spans if parts == 1 else spans[:: max(1, min(parts, len(spans)))]


def _sum(estimates: Sequence[Estimate]) -> Estimate:
    """Steps one after the other, whose errors go the same way."""
    return Estimate(
        value=sum(each.value for each in estimates),
        low=sum(each.low for each in estimates),
        high=sum(each.high for each in estimates),
        limit=sum(each.limit or 0.0 for each in estimates),
    )


def _middle(one: Estimate, other: Estimate) -> Estimate:
    limit = ((one.limit or 0.0) + (other.limit or 0.0)) / 2
    return Estimate((one.value + other.value) / 2, (one.low + other.low) / 2, (one.high + other.high) / 2, limit)


def short(value: float) -> float:
    """Four significant digits: more would be noise."""
    return float(f"{value:.4g}")
