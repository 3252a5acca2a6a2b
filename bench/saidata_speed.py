"""How fast saidata makes files: `python bench/saidata_speed.py files MODEL` or `python bench/saidata_speed.py rate MODEL`.

`files` makes real files from packed evidence (`saidata eval --pack FILE`), twice: the second time from the answer cache. It says
files a minute, tokens and steps a file, and how much of what all prompts share was computed before. `rate` asks for whole files
of a fixed length under the strict schema and, interleaved, without any constraint, and says what 10,000 of them would take:
made for `random:llama-3.1-8b`, whose text means nothing and whose time is real. One JSON line last.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from os.path import commonprefix
from pathlib import Path
from typing import Any

import msgspec

from saidata.evaluate import baselines, gold
from saidata.evaluate.packed import Packed
from saidata.facts import Evidence
from saidata.format.schema import schema
from saidata.generate.made import Made
from saidata.generate.make import Maker, Options
from saidata.generate.plan import plan
from saidata.generate.prompt import messages
from saidata.models import Answer, Local

WANTED = 10_000


class Kept:
    """An answer cache in memory."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], Answer] = {}

    def get(self, key: str, model: str) -> Answer | None:
        return self.answers.get((key, model))

    def put(self, key: str, model: str, answer: Answer) -> None:
        self.answers[key, model] = answer


def _shared(model: Local, evidence: Sequence[Evidence]) -> int:
    """How many tokens all prompts begin with, as the model's template writes them."""
    rendered = []
    for one in evidence:
        told = [{"role": message.role, "content": message.content} for message in messages(one, plan(one))]
        rendered.append(list(model.llm.render(told)))
    return len(commonprefix(rendered))


def _make(maker: Maker, evidence: Sequence[Evidence]) -> tuple[list[Made], float]:
    began = time.monotonic()
    return [made for _, made in maker.make_all(evidence)], time.monotonic() - began


def _told(made: Made) -> dict[str, Any]:
    """A file without when and how fast it was made."""
    return {key: value for key, value in made.data.items() if key != "saidata"}


def files(options: argparse.Namespace, model: Local) -> dict[str, Any]:
    """Real files, then the same from the cache."""
    packed = Packed(options.evidence)
    drawn = gold.spread(gold.load(), options.number, options.seed)
    evidence = [packed.gather(one.name) for one in drawn]
    shared = _shared(model, evidence)
    cache = Kept()
    maker = Maker(model, Options(form=options.form), cache=cache)
    made, seconds = _make(maker, evidence)
    again, cached_seconds = _make(maker, evidence)
    later = sorted(made, key=lambda one: one.effort.cached_tokens)[1:]  # the first request has nothing to find
    tokens = sum(one.effort.tokens for one in made)
    steps = [one.effort.steps for one in made if one.effort.steps is not None]
    return {
        "form": options.form,
        "files": len(made),
        "seconds": round(seconds, 2),
        "files_per_minute": round(60 * len(made) / seconds, 2),
        "tokens_per_file": round(tokens / len(made), 1),
        "steps_per_file": round(statistics.mean(steps), 1) if steps else None,
        "output_tokens_per_s": round(tokens / seconds, 1),
        "prompt_tokens_per_file": round(statistics.mean(one.effort.prompt_tokens for one in made), 1),
        "shared_prompt_tokens": shared,
        "least_cached_tokens": later[0].effort.cached_tokens if later else None,
        "valid": sum(one.valid for one in made),
        "repairs": sum(one.repairs for one in made),
        "again_seconds": round(cached_seconds, 4),
        "again_times_faster": round(seconds / cached_seconds, 1),
        "again_same": {one.name: _told(one) for one in made} == {one.name: _told(one) for one in again},
        "receipt": made[0].receipt,
    }


def rate(options: argparse.Namespace, model: Local) -> dict[str, Any]:
    """Whole files of a fixed length, bound and unbound in turns."""
    names = [one.name for one in gold.load()]
    asks = [
        msgspec.structs.replace(
            baselines.ask(f"{names[place % len(names)]} {place}", None), max_tokens=options.tokens, temperature=1.0, seed=place
        )
        for place in range(options.number)
    ]
    whole = schema(strict=True)
    bound = [msgspec.structs.replace(ask, schema=whole) for ask in asks]
    list(model.answers([msgspec.structs.replace(ask, max_tokens=8) for ask in bound[:4]]))  # load and compile outside the clock
    found: dict[str, list[dict[str, float]]] = {"bound": [], "free": []}
    for _ in range(options.rounds):
        for kind, wave in (("bound", bound), ("free", asks)):
            began, steps = time.monotonic(), model.llm.stats.steps
            answers = [answer for _, answer in model.answers(wave)]
            seconds, steps = time.monotonic() - began, model.llm.stats.steps - steps
            tokens = sum(answer.tokens for answer in answers)
            told = {"tokens_per_s": tokens / seconds, "steps": steps, "ms_per_step": 1e3 * seconds / steps}
            found[kind].append({"seconds": seconds, "tokens": tokens, **told})
    speed = {kind: statistics.median(one["tokens_per_s"] for one in rounds) for kind, rounds in found.items()}
    step = {kind: statistics.median(one["ms_per_step"] for one in rounds) for kind, rounds in found.items()}
    mean = statistics.mean(one["tokens"] for one in found["bound"]) / options.number
    return {
        "asks": options.number,
        "side_by_side": model.llm.info.max_num_seqs,
        "rounds": found,
        "tokens_per_answer": round(mean, 1),
        "bound_tokens_per_s": round(speed["bound"], 1),
        "free_tokens_per_s": round(speed["free"], 1),
        "constraints_cost_of_a_step": round(step["bound"] / step["free"] - 1, 4),
        "minutes_for_10000": round(WANTED * options.tokens / speed["bound"] / 60, 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=["files", "rate"])
    parser.add_argument("model")
    parser.add_argument("--number", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--evidence", type=Path, help="packed evidence, for `files`")
    parser.add_argument("--form", choices=["json", "yaml"], default="json")
    parser.add_argument("--tokens", type=int, default=1000, help="of an answer, for `rate`")
    parser.add_argument("--rounds", type=int, default=1, help="bound and unbound in turns, for `rate`")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--max-num-seqs", type=int)
    parser.add_argument("--tokenizer", help="a tokenizer.json: random weights bring one of single bytes, whose masks are easy")
    options = parser.parse_args()
    if options.kind == "files" and options.evidence is None:
        parser.error("files needs --evidence: make it with `saidata eval --files 0 --pack FILE`")
    engine: dict[str, Any] = {"device": options.device}
    if options.max_num_seqs:
        engine["max_num_seqs"] = options.max_num_seqs
    if options.tokenizer:
        engine["tokenizer"] = options.tokenizer
    with Local(options.model, **engine) as model:
        told = (files if options.kind == "files" else rate)(options, model)
    print(json.dumps({"bench": f"saidata {options.kind}", "model": options.model, "device": options.device} | told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
