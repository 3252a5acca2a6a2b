"""How far a model's logits move in half precision: `python bench/precision.py smollm2-135m`.

Feeds one text to the model in float32, bfloat16 and float16, token by token known in advance, and prints the RMS error of all
logits over the RMS of the float32 ones, and how often the best token is another one. One JSON line last.
"""

from __future__ import annotations

import argparse
import json

import torch

from redline import LLM, SamplingParams

TEXT = (
    "The lighthouse keeper counted the ships by their lamps. Some nights there were none, and he read; on others the whole "
    "horizon moved. def merge(left, right): return sorted(left + right)  # 42 in 1897\n"
)
BEST = 20  # alternatives whose log-probabilities are compared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    scores = {dtype: _scores(options.model, dtype, options.device) for dtype in ("float32", "bfloat16", "float16")}
    truth = scores["float32"]
    report: dict[str, object] = {"model": options.model, "device": options.device, "tokens": len(truth)}
    for dtype in ("bfloat16", "float16"):
        report[dtype] = _compare(truth, scores[dtype])
        print(dtype, report[dtype])
    print(json.dumps(report))


def _scores(model: str, dtype: str, device: str) -> list[dict[int, float]]:
    """Per token of the text, the log-probabilities of the best tokens at its position and of itself."""
    with LLM(model, dtype=dtype, device=device, receipts=False) as llm:
        done = llm.generate(TEXT, SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=BEST))[0]
    assert done.prompt_logprobs is not None
    return [dict(scored.top) | {scored.token: scored.logprob} for scored in done.prompt_logprobs if scored is not None]


def _compare(truth: list[dict[int, float]], got: list[dict[int, float]]) -> dict[str, float]:
    pairs = [(want[token], have[token]) for want, have in zip(truth, got, strict=True) for token in want.keys() & have.keys()]
    wanted, found = torch.tensor(pairs, dtype=torch.float64).T
    moved = sum(max(want, key=want.__getitem__) != max(have, key=have.__getitem__) for want, have in zip(truth, got, strict=True))
    return {
        "rms_error_of_logprobs": round(float((wanted - found).square().mean().sqrt()), 4),
        "other_best_token": round(moved / len(truth), 4),
    }


if __name__ == "__main__":
    main()
