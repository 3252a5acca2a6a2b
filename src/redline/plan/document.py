"""A plan as one JSON-able document: memory, first tokens, steps, loads, energy, each with its error bar, and why. Open `document`."""

from __future__ import annotations

import dataclasses
from typing import Any

from redline.plan.goal import Goal
from redline.plan.place import Place
from redline.plan.power_cap import no_power
from redline.plan.precision import PLANNED
from redline.plan.predict import Estimate, Load, Step, short
from redline.plan.proof import describe
from redline.plan.roofline import weight_count
from redline.plan.search import Answer, Candidate
from redline.shapes import ModelShape

Document = dict[str, Any]

USERS = (1, 4, 16, 64, 256)
PROMPTS = (128, 512, 4096, 32768)
MILLI = 1e3


def document(
    model: str, shape: ModelShape, answer: Answer, goal_text: str = "", power_cap: float | str | None = None
) -> Document:
    """Everything that `redline plan` says. Times in milliseconds; an estimate is value, low, high and limit.

    `power_cap` is the cap that `answer` was found under, or "curve".
    """
    shown, goal = answer.shown, answer.goal
    return {
        "model": model,
        "parameters": weight_count(shape),
        "place": _place(answer.place),
        "goal": goal_text or None,
        "load": dataclasses.asdict(goal.load),
        "feasible": answer.best is not None,
        "sure": answer.best.sure(goal) if answer.best else False,
        "runs": shown.runs if shown else False,
        "note": None if shown is None or shown.runs else PLANNED,
        "layout": _layout(shown) if shown else None,
        "memory": shown.footprint.as_dict(shown.load.users, goal.context) if shown else None,
        "goals": _goals(shown, goal) if shown else [],
        "idle_first_token_ms": _first_tokens(shown, shape) if shown else [],
        "loads": _loads(shown, goal) if shown else [],
        "steps": _steps(shown) if shown else {},
        "swap_ms": _estimate(shown.predictor.swap_s(shown.footprint.weights_bytes), MILLI) if shown else None,
        "corrections": _corrections(shown) if shown else None,
        "joules_reason": no_power(shown.predictor.place) if shown else None,
        "power_cap": None if power_cap is None else _power_cap(answer, goal, power_cap),
        "doubts": [{"reason": reason, "share": short(share)} for reason, share in shown.predictor.doubts] if shown else [],
        "proof": list(answer.proof),
        "ways": list(answer.ways),
        "candidates": answer.tried,
    }


def _place(place: Place) -> Document:
    rates = place.ceilings
    return {
        "name": place.name,
        "chip": place.chip,
        "count": place.count,
        "source": f"measured {rates.measured_at}" if place.measured else "table",
        "announced": place.announced,
        "unified_memory": place.unified,
        "read_gb_s": short(rates.read_bytes_per_s / 1e9),
        "matmul_tflops": {name: short(rate / 1e12) for name, rate in rates.matmul_flops.items()},
        "data_sheet_read_gb_s": None if place.measured else short(place.peak.read_bytes_per_s / 1e9),
        "memory_mib": place.memory_bytes >> 20,
        "link_gb_s": None if place.link_bytes_per_s is None else short(place.link_bytes_per_s / 1e9),
        "host_gb_s": None if place.host_bytes_per_s is None else short(place.host_bytes_per_s / 1e9),
        "links": None if place.links is None else dataclasses.asdict(place.links),
        "power_w": place.power_w,
    }


def _layout(shown: Candidate) -> Document:
    return {
        "text": describe(shown),
        "format": shown.predictor.weights.name,
        "format_source": shown.predictor.weights.source,
        "kv_cache_dtype": shown.predictor.kv.name,
        "tensor_parallel": shown.layout.tensor,
        "pipeline_parallel": shown.layout.pipeline,
        "replicas": shown.replicas,
        "max_num_seqs": shown.load.users,
        "max_num_batched_tokens": shown.predictor.tokens,
        "draft_tokens": shown.draft,
    }


def _goals(shown: Candidate, goal: Goal) -> list[Document]:
    found = []
    for term in goal.terms:
        value = shown.measure(term.name)
        met = value is not None and term.misses(value.value) <= 1
        found.append({"goal": str(term), "met": met, "forecast": _estimate(value)})
    return found


def _first_tokens(shown: Candidate, shape: ModelShape) -> list[Document]:
    prompts = [prompt for prompt in PROMPTS if prompt < shape.max_position and prompt <= shown.footprint.longest(1)]
    return [{"prompt": prompt, **_bar(shown.predictor.first_token(prompt), MILLI)} for prompt in prompts]


def _loads(shown: Candidate, goal: Goal) -> list[Document]:
    """The goal's load and others of the same prompts and answers, as many users as fit the memory."""
    most = shown.footprint.sequences(goal.context) * shown.replicas
    users = sorted({goal.load.users, *USERS} & set(range(most + 1)))
    rows = []
    for count in users:
        load = Load(-(-count // shown.replicas), goal.load.prompt, goal.load.output)
        steady, joules = shown.predictor.steady(load), shown.predictor.joules_per_token(load)
        rows.append(
            {
                "users": count,
                "itl_ms": _bar(steady.itl, MILLI),
                "worst_itl_ms": _bar(steady.worst_itl, MILLI),
                "ttft_ms": _bar(steady.ttft, MILLI),
                "tokens_per_s": _bar(steady.tokens_per_s.times(shown.replicas)),
                "joules_per_token": _estimate(joules),
                "joules_per_request": _estimate(joules, load.output),
            }
        )
    return rows


def _steps(shown: Candidate) -> Document:
    """A decode step, a prompt's step and a mixed one, stage by stage."""
    predictor, load = shown.predictor, shown.load
    chunk = min(load.prompt, predictor.tokens)
    mixed = predictor.step([(0, min(chunk, max(1, predictor.tokens - load.users)))], load.users, load.context)
    return {
        "decode": _step(predictor.decode(load.users, load.context)),
        "prefill": _step(predictor.step([(0, chunk)])),
        "mixed": _step(mixed),
    }


def _step(step: Step) -> Document:
    return {
        "tokens": step.tokens,
        "ms": _bar(step.seconds, MILLI),
        "limiting": step.limiting,
        "parts": [
            {
                "name": part.name,
                "ms": short(part.seconds * MILLI),
                "limit_ms": short(part.limit_s * MILLI),
                "mbytes": short(part.bytes / 1e6),
                "gflop": short(part.flops / 1e9),
                "bound": part.bound,
            }
            for part in step.parts
        ],
    }


def _corrections(shown: Candidate) -> Document | None:
    """What the forecasts were corrected by; None: nothing was measured here, or it does not count."""
    learned = shown.predictor.corrections
    return None if learned is None else learned.as_dict()


def _power_cap(answer: Answer, goal: Goal, asked: float | str) -> Document:
    from redline.plan.trade_off import told  # what others measured under caps is read where somebody asks

    return told(answer.shown, answer.place, goal, asked)


def _estimate(value: Estimate | None, scale: float = 1.0) -> Document | None:
    return None if value is None else value.as_dict(scale)


def _bar(value: Estimate, scale: float = 1.0) -> Document:
    return value.as_dict(scale)
