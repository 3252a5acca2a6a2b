"""The layout that meets a goal at the least loss, or the proof that none does and what comes nearest.

Tried are formats of weights and KV, ways to spread the model over the chips (replicas too), sizes of prompt chunks, and drafts
of four tokens. Numbers only: some hundred candidates take a tenth of a second. Open `search`, then `Answer`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from redline.errors import ConfigError
from redline.plan.footprint import Footprint, footprint
from redline.plan.goal import Goal, Term
from redline.plan.memory import Limits
from redline.plan.place import Place
from redline.plan.precision import KV, WEIGHTS, KvFormat, WeightFormat
from redline.plan.predict import Estimate, Load, Predictor, Steady
from redline.plan.split import Layout, layouts
from redline.shapes import ModelShape

CHUNKS = (512, 2048, 8192)
SMALL_MEMORY = 32 << 30  # below it a step takes 2048 tokens where nobody says otherwise
DRAFT = 4
DRAFT_GAIN = 2.6
"""Tokens of a step that checks four drafted ones: SGLang with EAGLE-3 makes 373 tokens/s of 158 (Llama-3.1-8B, one H100, MT-bench),
2.36 times, with a tenth more for the draft. What a draft model takes is in it."""
DRAFT_DOUBT = 0.4  # the gain of a draft is the text's: 1.54 to 2.36 times on the same page
SEARCHED = ("fp8", "int8", "q6_k", "nvfp4", "q4_k_m", "int4")
SEARCHED_KV = ("fp8", "int4")
QUICK = ("fp8", "int4")


@dataclass(frozen=True)
class Options:
    """What the search may not choose: None leaves it open."""

    weights: WeightFormat | None = None
    kv: KvFormat | None = None
    tensor: int | None = None
    pipeline: int | None = None
    quick: bool = False  # try the few that tell most: of a question beside the one that was asked


@dataclass(frozen=True)
class Candidate:
    """One way to run the model: `replicas` groups of chips, each with `load.users` users, and what is forecast of it."""

    predictor: Predictor
    footprint: Footprint
    load: Load  # of one replica
    replicas: int
    chunk: int
    draft: int = 0

    @property
    def layout(self) -> Layout:
        return self.predictor.layout

    @functools.cached_property
    def steady(self) -> Steady:
        """What users see of one replica, drafts included."""
        plain = self.predictor.steady(self.load)
        return _drafted(self.predictor, self.load, plain) if self.draft else plain

    @property
    def itl(self) -> Estimate:
        return self.steady.itl

    @property
    def ttft(self) -> Estimate:
        return self.steady.ttft

    @property
    def tokens_per_s(self) -> Estimate:
        """Of all replicas."""
        return self.steady.tokens_per_s.times(self.replicas)

    @functools.cached_property
    def start_ttft(self) -> Estimate:
        """Seconds to the first token on an idle engine."""
        return self.predictor.first_token(self.load.prompt)

    @functools.cached_property
    def joules(self) -> Estimate | None:
        """Of an output token, of all chips; None where power is not known, and with drafts, of which nobody measured any."""
        return None if self.draft else self.predictor.joules_per_token(self.load)

    @property
    def runs(self) -> bool:
        """Whether this version of redline can run it."""
        formats = self.predictor.weights.runs and self.predictor.kv.runs
        return formats and self.layout.chips == 1 and not self.draft

    @property
    def fits(self) -> bool:
        return self.footprint.sequences(self.load.prompt + self.load.output) >= self.load.users

    @property
    def loss(self) -> tuple[int, int]:
        """How much quality the formats may cost: less is better."""
        return self.predictor.weights.loss + self.predictor.kv.loss, self.draft

    def measure(self, name: str) -> Estimate | None:
        """The forecast of one of `goal.MEASURES`, in its unit."""
        if name == "joules_per_token":
            return self.joules
        if name == "joules_per_request":
            return self.joules.times(self.load.output) if self.joules else None
        if name in ("tokens_per_s", "user_tokens_per_s"):
            return self.tokens_per_s if name == "tokens_per_s" else self.itl.inverse()
        if name == "start_ttft_ms":
            return self.start_ttft.times(1e3)
        return {"ttft_ms": self.ttft, "itl_ms": self.itl, "worst_itl_ms": self.steady.worst_itl}[name].times(1e3)

    def meets(self, goal: Goal) -> bool:
        """Whether the forecast meets every term. Tokens come no sooner than steps without prompts end, which is a third of the work to know."""
        for term in goal.terms:
            if term.name == "itl_ms" and not self.draft:
                alone = self.predictor.decode(self.load.users, self.load.context).seconds
                if term.misses(alone.times(1e3).value) > 1:
                    return False
        return not self.misses(goal)

    def misses(self, goal: Goal) -> list[tuple[Term, Estimate | None]]:
        """The terms that the forecast does not meet."""
        found = [(term, self.measure(term.name)) for term in goal.terms]
        return [(term, value) for term, value in found if value is None or term.misses(value.value) > 1]

    def sure(self, goal: Goal) -> bool:
        """Whether the goal holds at the bad end of every error bar."""
        for term in goal.terms:
            value = self.measure(term.name)
            if value is None or term.misses(value.high if term.at_most else value.low) > 1:
                return False
        return True

    def distance(self, goal: Goal) -> float:
        """How many times worse than its bound the worst term is."""
        found = [(term, self.measure(term.name)) for term in goal.terms]
        return max([term.misses(value.value) if value else float("inf") for term, value in found], default=1.0)


@dataclass(frozen=True)
class Answer:
    """`best` meets the goal, or is None; then `nearest` comes nearest on this place, if anything fits its memory at all.

    `proof` says why nothing does, `ways` what would.
    """

    goal: Goal
    place: Place
    best: Candidate | None
    nearest: Candidate | None
    proof: tuple[str, ...] = ()
    ways: tuple[str, ...] = ()
    tried: int = 0

    @property
    def shown(self) -> Candidate | None:
        return self.best or self.nearest


def search(shape: ModelShape, place: Place, goal: Goal, options: Options | None = None) -> Answer:
    """The least lossy candidate that meets `goal`, and among equals the one that `goal.best` prefers."""
    from redline.plan.proof import explain  # reads candidates too

    options = options or Options()
    found = list(candidates(shape, place, goal, options))
    if not found:
        asked = Layout(options.tensor or 1, options.pipeline or 1)
        raise ConfigError(
            f"{place.name} cannot hold {shape.num_heads} heads and {shape.num_layers} layers as {asked}",
            hint=f"layouts use a part of {place.count} chips that divides them, and divide the heads",
            param="tensor_parallel_size",
        )
    fitting = [each for each in found if each.fits]
    meeting = [each for each in fitting if each.meets(goal)]
    if meeting:
        return Answer(goal, place, min(meeting, key=lambda each: _rank(each, goal)), None, tried=len(found))
    nearest = min(fitting, key=lambda each: (each.distance(goal), *_rank(each, goal)), default=None)
    proof, ways = explain(shape, goal, found, nearest, (place, dataclasses.replace(options, quick=True)))
    return Answer(goal, place, None, nearest, proof, ways, len(found))


def candidates(shape: ModelShape, place: Place, goal: Goal, options: Options) -> Iterator[Candidate]:
    """Everything that is tried. What does not fit the memory comes once for each format and layout, for the proof."""
    for weights in _weights(place, shape, options):
        for kv in _kvs(weights, options, place, shape):
            for layout, replicas in _spreads(shape, place, options):
                load = dataclasses.replace(goal.load, users=-(-goal.load.users // replicas))
                predictor = Predictor(shape, place, weights, kv, layout)
                for chunk in _chunks(place, goal, load, options):
                    made = candidate(predictor.budgeted(max(chunk, load.users)), load, chunk=chunk, replicas=replicas)
                    yield made
                    if not made.fits:
                        break
                    if goal.terms and not place.on_cpu:
                        yield dataclasses.replace(made, draft=DRAFT)


def candidate(predictor: Predictor, load: Load, *, chunk: int, replicas: int) -> Candidate:
    """One way to run the model, forecast."""
    shape, place = predictor.shape, predictor.place
    limits = Limits(load.users, predictor.tokens, load.prompt + load.output, graphs=not place.on_cpu and shape.moe is None)
    need = footprint(shape, place, predictor.weights, predictor.kv, predictor.layout, limits)
    return Candidate(predictor, need, load, replicas, chunk)


def _drafted(predictor: Predictor, load: Load, plain: Steady) -> Steady:
    """The same load with drafted tokens for each user, all checked in one step."""
    check = predictor.decode(load.users, load.context, DRAFT).seconds
    error = (predictor.error**2 + DRAFT_DOUBT**2) ** 0.5
    itl = Estimate.of(check.value / DRAFT_GAIN, error, (check.limit or 0.0) / (DRAFT + 1))
    # Prompts take what they took: a token's share of them is what is left of the plain rate.
    prompts = max(0.0, load.users / plain.tokens_per_s.value - plain.itl.value)
    rate = Estimate.of(itl.value + prompts, error, (itl.limit or 0.0) + prompts).inverse(load.users)
    return dataclasses.replace(plain, itl=itl, tokens_per_s=rate)


def _rank(each: Candidate, goal: Goal) -> tuple[float, ...]:
    """Smaller is better: loss first, unless the goal says otherwise; what holds for sure before what may."""
    doubtful = 0.0 if each.sure(goal) else 1.0
    loss, draft = each.loss
    chips, itl = float(each.layout.chips), each.itl.value
    if goal.best == "tokens_per_s":
        return (-each.tokens_per_s.value, loss, draft, chips)
    if goal.best == "tokens_per_joule":
        return (each.joules.value if each.joules else float("inf"), loss, draft, chips)
    if goal.best == "itl_ms":
        return (itl, loss, draft, chips)
    return (draft, loss, 0.0 if each.runs else 1.0, doubtful, itl, each.ttft.value)


def _weights(place: Place, shape: ModelShape, options: Options) -> Iterable[WeightFormat]:
    if options.weights is not None:
        return (options.weights,)
    plain = plain_format(place, shape)
    names = QUICK if options.quick else SEARCHED
    packed = [WEIGHTS[name] for name in names if name != "nvfp4" or "nvfp4" in place.native]
    return (plain, *packed)


def plain_format(place: Place, shape: ModelShape) -> WeightFormat:
    """The format in which this version runs a model on such a place."""
    beyond = shape.family == "gemma3" and place.dtype == "float16"  # leaves the range of float16, as resolve.py has it
    return WEIGHTS["float32" if beyond else place.dtype]


def _kvs(weights: WeightFormat, options: Options, place: Place, shape: ModelShape) -> Sequence[KvFormat]:
    if options.kv is not None:
        return (options.kv,)
    plain = KV[plain_format(place, shape).name]
    return (plain, *(KV[name] for name in SEARCHED_KV[: 1 if options.quick else None])) if not place.on_cpu else (plain,)


def _spreads(shape: ModelShape, place: Place, options: Options) -> list[tuple[Layout, int]]:
    """(layout, replicas) that use all chips."""
    found = []
    for chips in range(1, place.count + 1):
        if place.count % chips:
            continue
        for layout in layouts(shape, chips):
            asked = options.tensor in (None, layout.tensor) and options.pipeline in (None, layout.pipeline)
            if asked and layout.pipeline <= (1 if options.quick and options.pipeline is None else 8):
                found.append((layout, place.count // chips))
    return found


def _chunks(place: Place, goal: Goal, load: Load, options: Options) -> tuple[int, ...]:
    usual = 512 if place.on_cpu else 2048 if place.memory_bytes < SMALL_MEMORY else 8192
    if not any(term.name in ("ttft_ms", "worst_itl_ms") for term in goal.terms):
        return (usual,)
    sizes = tuple(size for size in CHUNKS if size < 2 * load.prompt) or CHUNKS[:1]
    return tuple(dict.fromkeys((sizes[0], sizes[-1]))) if options.quick else sizes
