"""Why no layout of a place meets a goal, in numbers: the floor that no kernel passes, what each format would give, what would do.

Open `explain`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from redline.plan.goal import Goal, Term
from redline.plan.memory import size
from redline.plan.place import Place
from redline.plan.predict import Estimate, short

if TYPE_CHECKING:
    from redline.plan.search import Candidate, Options
    from redline.shapes import ModelShape

MORE_CHIPS = (2, 4, 8, 16)


def explain(
    shape: ModelShape, goal: Goal, found: Sequence[Candidate], nearest: Candidate | None, asked: tuple[Place, Options]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(proof, ways): sentences. `found` is all that was tried, `nearest` what fits the memory and misses least, `asked` where."""
    place, options = asked
    if nearest is None:
        return _memory_proof(goal, found, place), (*_smaller(goal, found), *_more(shape, goal, place, options))
    fitting = [each for each in found if each.fits]
    proof = [_term_proof(term, fitting, place) for term, _ in nearest.misses(goal)]
    return tuple(proof), (*_formats(goal, fitting), *_more(shape, goal, place, options))


def _memory_proof(goal: Goal, found: Sequence[Candidate], place: Place) -> tuple[str, ...]:
    least = min(found, key=lambda each: each.footprint.fixed + each.load.users * goal.context * each.footprint.kv_token)
    need = least.footprint
    kv = int(least.load.users * goal.context * need.kv_token)
    name = least.predictor.weights.name
    where = "each chip" if place.count > 1 else "it"
    text = (
        f"the model does not fit {place.name}: in {name} with {least.predictor.kv.name} KV, {least.layout}, {where} would hold "
    )
    text += f"{size(need.weights_bytes)} of weights, {size(kv)} of KV for {least.load.users} x {goal.context} tokens and "
    text += (
        f"{size(need.fixed - need.weights_bytes)} beside them, {size(need.fixed + kv)} in all; {size(need.usable)} may be used"
    )
    return (text,)


def _term_proof(term: Term, fitting: Sequence[Candidate], place: Place) -> str:
    """One goal that nothing meets: by the limit where that suffices, else by the forecast."""
    values = [(each, value) for each in fitting if (value := each.measure(term.name)) is not None]
    if not values:
        return f"{term}: nothing is known of it on {place.name}"
    bests = [value.limit for _, value in values if value.limit is not None]
    floor = (min(bests) if term.at_most else max(bests)) if bests else None
    if floor is not None and term.misses(floor) > 1:
        kind = "floor" if term.at_most else "most"
        return f"{term} cannot be: {_number(floor)} is the {kind} of {place.name} for this load, in whatever format and layout was tried"
    each, value = min(values, key=lambda pair: term.misses(pair[1].value))
    within = "" if floor is None else f" (its limit is {_number(floor)})"
    return f"{term} is not expected with the other goals: {describe(each)} comes nearest with {bar(value)}{within}"


def _formats(goal: Goal, fitting: Sequence[Candidate]) -> tuple[str, ...]:
    """What fewer bits give: the time between tokens by format, over that of the plain one."""
    best: dict[str, Candidate] = {}
    for each in fitting:
        name = each.predictor.weights.name
        if not each.draft and (name not in best or each.itl.value < best[name].itl.value):
            best[name] = each
    plain = next((each for each in best.values() if each.predictor.weights.runs), None)
    if plain is None or len(best) < 2:
        return ()
    gains = sorted(((plain.itl.value / each.itl.value, name) for name, each in best.items() if each is not plain), reverse=True)
    text = ", ".join(f"{name} would give {gain:.1f}x" for gain, name in gains)
    floor = min(each.itl.limit or 0.0 for each in best.values()) * 1e3
    return (f"between tokens, over {plain.predictor.weights.name}: {text}; {_number(floor)} ms is the floor",)


def _smaller(goal: Goal, found: Sequence[Candidate]) -> tuple[str, ...]:
    """Fewer users or a shorter context that would fit."""
    ways = []
    users = max(each.footprint.sequences(goal.context) * each.replicas for each in found)
    if users:
        ways.append(f"users={users} would fit at {goal.context} tokens each")
    longest = max(each.footprint.longest(each.load.users) for each in found)
    if longest:
        ways.append(f"context={longest} would fit for {goal.load.users} users")
    return tuple(ways)


def _more(shape: ModelShape, goal: Goal, place: Place, options: Options) -> tuple[str, ...]:
    """The least number of such chips that does."""
    from redline.plan.search import candidates

    if place.on_cpu or place.unified:
        return ()
    wider = dataclasses.replace(options, tensor=None, pipeline=None)
    for count in MORE_CHIPS:
        if count <= place.count:
            continue
        larger = dataclasses.replace(place, name=f"{count} x {place.chip}", count=count, taken_bytes=0)
        meeting = [each for each in candidates(shape, larger, goal, wider) if each.fits and each.meets(goal)]
        if meeting:
            return (f"{larger.name} would do: {describe(min(meeting, key=lambda each: (each.loss, each.itl.value)))}",)
    return (f"{MORE_CHIPS[-1]} x {place.chip} would not do either",)


def describe(each: Candidate) -> str:
    """A candidate in one phrase."""
    parts = [each.predictor.weights.name, f"{each.predictor.kv.name} KV", str(each.layout)]
    if each.replicas > 1:
        parts.append(f"{each.replicas} replicas")
    parts.append(f"chunks of {each.chunk}")
    if each.draft:
        parts.append(f"drafts of {each.draft}")
    return ", ".join(parts)


def bar(value: Estimate, spec: str = "") -> str:
    """A value with its error bar."""
    if spec:
        return f"{value.value:{spec}} ({value.low:{spec}} to {value.high:{spec}})"
    return f"{_number(value.value)} ({_number(value.low)} to {_number(value.high)})"


def _number(value: float) -> str:
    return f"{short(value):,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
