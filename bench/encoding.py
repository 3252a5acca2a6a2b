"""What encoding a text takes, in milliseconds: `python bench/encoding.py smollm2-135m --chars 10000 90000`.

Of each length of a text (the beginning of `--text`, docs/log.md without it): by one call of the library, in parts on all cores, and as
the text of a conversation that goes on, whose parts are known but for the last. In turns, medians. Then many texts, one by one and
together. One JSON line last.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redline import checkpoint
from redline.checkpoint.opener import tokenizer_for
from redline.tokenizer import Tokenizer

ROOT = Path(__file__).parents[1]
MORE = " and so it goes on"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="whose tokenizer it is")
    parser.add_argument("--text", type=Path, default=ROOT / "docs" / "log.md")
    parser.add_argument("--chars", type=int, nargs="+", default=[10_000, 16_000, 64_000, 90_000])
    parser.add_argument("--many", type=int, default=512, help="texts of 2,500 characters, one by one and together")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    tokenizer, text = tokenizer_for(checkpoint.open(options.model)), options.text.read_text()
    lengths = [_length(tokenizer, text[:chars], options.rounds) for chars in options.chars]
    report = {
        "model": options.model,
        "cores": len(os.sched_getaffinity(0)),
        "lengths": lengths,
        "many": _many(tokenizer, text, options.many),
    }
    print(json.dumps(report))
    return 0


def _length(tokenizer: Tokenizer, text: str, rounds: int) -> dict[str, Any]:
    grown = iter(text + MORE * n for n in range(1, rounds + 1))
    library = tokenizer._backend
    ways: dict[str, Callable[[], Any]] = {
        "whole_ms": lambda: library.encode_batch_fast([text], add_special_tokens=False)[0].ids,
        "parts_ms": lambda: tokenizer.encode(text),
        "goes_on_ms": lambda: tokenizer.encode(next(grown), salt="bench"),
    }
    tokens = len(tokenizer.encode(text, salt="bench"))  # whatever happens once, happens here
    times: dict[str, list[float]] = {name: [] for name in ways}
    draw = random.Random(0)
    for _ in range(rounds):
        for name in draw.sample(list(ways), len(ways)):
            times[name].append(_ms(ways[name]))
    found = {name: round(statistics.median(each), 3) for name, each in times.items()}
    print(len(text), "characters", tokens, "tokens", found, file=sys.stderr)
    return {"chars": len(text), "tokens": tokens, **found}


def _many(tokenizer: Tokenizer, text: str, count: int) -> dict[str, Any]:
    texts = [text[at : at + 2500] for at in range(0, 737 * count, 737) if at + 2500 <= len(text)][:count]
    one_by_one = min(_ms(lambda: [tokenizer.encode(each) for each in texts]) for _ in range(3))
    together = min(_ms(lambda: tokenizer.encode_all(texts)) for _ in range(3))
    return {"texts": len(texts), "one_by_one_ms": round(one_by_one, 1), "together_ms": round(together, 1)}


def _ms(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e3


if __name__ == "__main__":
    sys.exit(main())
