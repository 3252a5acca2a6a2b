"""How long the mask of one token takes, with a real vocabulary and realistic grammars: `measure`.

Answers are drawn at random from each grammar, but mostly along a typical text, as a model would write. Times are of the one
thread that computes the mask, by its processor clock (`mask`) and by the wall clock (`mask_wall`), which agree on a quiet
machine. Also timed: compiling, and finding out what is forced.
"""

from __future__ import annotations

import time
from random import Random
from typing import Any

import numpy as np

from redline.engine.grammar import Compiler, Matcher, Vocabulary, of_json_object, of_json_schema, of_lark, of_regex, of_yaml
from redline.errors import RedlineError
from redline.tokenizer import Tokenizer
from schemas import generated

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "email": {"type": "string", "format": "email"},
        "joined": {"type": "string", "format": "date-time"},
        "address": {
            "type": "object",
            "properties": {"street": {"type": "string", "maxLength": 60}, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}},
            "required": ["street", "zip"],
            "additionalProperties": False,
        },
        "tags": {"type": "array", "items": {"enum": ["new", "vip", "blocked", "trial"]}, "maxItems": 4},
        "notes": {"type": ["string", "null"]},
    },
    "required": ["name", "age", "email", "address", "tags"],
    "additionalProperties": False,
}
LARK = """
start: "ask" " " what ("," " " what)* "."
what: NAME | "(" what ")" | call
call: "call " NAME " with " %json {"type": "object", "properties": {"n": {"type": "integer"}}, "additionalProperties": false}
NAME: /[a-z_]{1,20}/
"""
WORDS = "the quick brown fox jumps over 12 lazy dogs, and then: nothing more is said of it. Voilà, c'est tout!".split(" ")


def grammars() -> dict[str, str]:
    found = {"person": of_json_schema(PERSON), "person as YAML": of_yaml(PERSON), "any object": of_json_object()}
    found |= {"lark": of_lark(LARK), "regex": of_regex("[A-Z][a-z]+( [A-Z][a-z]+)*, [0-9]{1,3} years")}
    for seed in range(40):
        try:
            found[f"generated {seed}"] = of_json_schema(generated(seed))
        except RedlineError:
            continue
    return found


def follow(
    matcher: Matcher, tokenizer: Tokenizer, compiler: Compiler, rng: Random, most: int
) -> tuple[list[tuple[float, float]], list[float]]:
    """Seconds of each mask (processor, wall), and of each look for forced tokens (processor), along one answer."""
    words = np.zeros(-(-compiler.vocab_size // 32), np.int32)
    masks, forced_s = [], []
    typical = [token for _ in range(4) for word in rng.sample(WORDS, len(WORDS)) for token in tokenizer.encode(" " + word, False)]
    while len(masks) < most and not matcher.complete:
        began, began_wall = time.thread_time(), time.perf_counter()
        matcher.fill(words)
        masks.append((time.thread_time() - began, time.perf_counter() - began_wall))
        allowed = np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little"))
        assert len(allowed), matcher.error
        plain = [typical[len(masks) % len(typical)]] if rng.random() < 0.8 else []
        choice = next((t for t in plain if t in allowed), None)
        if choice is None:
            short = [int(t) for t in rng.sample(allowed.tolist(), min(24, len(allowed)))]
            choice = min(
                (t for t in short if t not in compiler.eos_ids), key=lambda t: len(tokenizer.token_bytes(t)), default=None
            )
        if choice is None:
            break
        assert matcher.consume(choice), matcher.error
        began = time.thread_time()
        forced = matcher.forced()
        forced_s.append(time.thread_time() - began)
        for token in forced:
            matcher.consume(token)
    return masks, forced_s


def measure(tokenizer: Tokenizer, vocab_size: int, eos_ids: tuple[int, ...], *, answers: int, tokens: int) -> dict[str, Any]:
    """Median, 99th percentile and maximum of each time, over `answers` of each grammar of at most `tokens` steps."""
    began = time.thread_time()
    compiler = Compiler(Vocabulary(tokenizer, vocab_size, eos_ids))
    setup_s = time.thread_time() - began
    rng, masks, forced, compiles = Random(1), [], [], []
    for grammar in grammars().values():
        began = time.thread_time()
        try:
            compiler.matcher(grammar)
        except RedlineError:
            continue
        compiles.append(time.thread_time() - began)
        for _ in range(answers):
            seconds, looked = follow(compiler.matcher(grammar), tokenizer, compiler, rng, tokens)
            masks += seconds
            forced += looked
    told = {"vocab_size": vocab_size, "grammars": len(compiles), "setup_s": round(setup_s, 3)}
    told |= _summary("mask", [processor for processor, _ in masks]) | _summary("mask_wall", [wall for _, wall in masks])
    return told | _summary("forced", forced) | _summary("compile", compiles)


def _summary(name: str, seconds: list[float]) -> dict[str, float]:
    found = np.array(seconds) * 1e6
    marks = {"median": 50, "p99": 99, "max": 100}
    return {f"{name}_count": len(seconds)} | {
        f"{name}_{mark}_us": round(float(np.percentile(found, at)), 1) for mark, at in marks.items()
    }
