"""How long the mask of one token takes: `python bench/masks.py qwen2.5-coder-0.5b`. The model's vocabulary, none of its weights.

What is measured is said in tests/mask_times.py. One JSON line; exits 3 if the median is not under 60 us or the 99th percentile
not under 1 ms, by the processor clock of the thread that computes them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from mask_times import measure
from redline import checkpoint
from redline.checkpoint.opener import tokenizer_for

MEDIAN_US, P99_US = 60, 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="qwen2.5-coder-0.5b")
    parser.add_argument("--answers", type=int, default=4, help="of each grammar")
    parser.add_argument("--tokens", type=int, default=120, help="of each answer at most")
    options = parser.parse_args()
    opened = checkpoint.open(options.model)
    eos_ids = opened.generation.eos_ids
    found = measure(tokenizer_for(opened), opened.shape.vocab_size, eos_ids, answers=options.answers, tokens=options.tokens)
    print(json.dumps({"model": options.model, **found}))
    return 0 if found["mask_median_us"] < MEDIAN_US and found["mask_p99_us"] < P99_US else 3


if __name__ == "__main__":
    sys.exit(main())
