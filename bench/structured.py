"""Hold a model to the vendored schemas of check-jsonschema and to generated ones: `python bench/structured.py random:tiny-llama`.

Every finished answer is judged by jsonschema-rs, every refusal must name its keyword, unfinished answers are counted apart.
One JSON line last; exits 3 if something was invalid or unnamed, or fewer than five in six of the generated ones were accepted.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from redline import LLM
from schemas import generated, vendored
from structured import offline


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--generated", type=int, default=300)
    parser.add_argument("--max-tokens", type=int, default=300)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    own = {f"generated {seed}": generated(seed) for seed in range(options.generated)}
    began = time.perf_counter()
    with LLM(options.model, device=options.device, max_model_len=2048) as llm:
        report = offline(llm, own | vendored(), max_tokens=options.max_tokens)
    for name, text in [*report.invalid, *report.unnamed]:
        print(f"{name}: {text[:200]}", file=sys.stderr)
    accepted = report.accepted_of("generated")
    told = {"model": options.model, **report.as_json(), "generated": options.generated, "generated_accepted": accepted}
    print(json.dumps(told | {"seconds": round(time.perf_counter() - began, 1)}))
    return 3 if report.invalid or report.unnamed or accepted < options.generated * 5 // 6 else 0


if __name__ == "__main__":
    sys.exit(main())
