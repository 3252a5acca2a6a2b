"""What accounting for every request costs: decode steps with receipts and without, in turns: `python bench/receipts.py MODEL`.

Two engines lie side by side in one process, one of which keeps accounts of its requests and makes a receipt of each. The step is
the difference of a long and a short answer over the difference of their tokens. One JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time

from redline import LLM, SamplingParams

SHORT = 20  # tokens


def step_ms(llm: LLM, batch: int, tokens: int, draw: random.Random) -> float:
    """Milliseconds of a decode step of `batch` rows."""

    def seconds(output: int) -> float:
        prompts = [[draw.randrange(llm.info.vocab_size) for _ in range(128)] for _ in range(batch)]
        began = time.perf_counter()
        llm.generate(prompts, SamplingParams(temperature=0.0, max_tokens=output, ignore_eos=True))
        return time.perf_counter() - began

    return (seconds(tokens) - seconds(SHORT)) / (tokens - SHORT) * 1e3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--kv-gib", type=float, help="of each engine")
    asked = parser.parse_args()
    settings = {"device": asked.device, "enable_prefix_caching": False, "max_num_seqs": max(asked.batch), "seed": 0}
    if asked.kv_gib:
        settings["kv_cache_memory"] = asked.kv_gib
    draw, rows = random.Random(0), []
    with LLM(asked.model, receipts=True, **settings) as on, LLM(asked.model, receipts=False, **settings) as off:
        for llm in (on, off):
            llm.prepare()
        for batch in asked.batch:
            found: dict[bool, list[float]] = {True: [], False: []}
            for number in range(asked.rounds + 1):
                for kept in (True, False) if number % 2 else (False, True):
                    found[kept].append(step_ms(on if kept else off, batch, asked.tokens, draw))
            with_receipts, without = (statistics.median(found[kept][1:]) for kept in (True, False))  # the first round warms up
            cost = with_receipts / without - 1
            rows.append({"batch": batch, "ms": round(with_receipts, 4), "ms_without": round(without, 4), "cost": round(cost, 4)})
    print(json.dumps({"bench": "receipts", "model": asked.model, "rounds": asked.rounds, "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
