"""Many answers behind one prompt: `python bench/common_prompt.py random:llama-3.2-1b --device cuda:0`, and once more with `--no-bundles`.

Every request has `--common` tokens that all have, and `--own` of its own. The prefix cache has the common ones before anything is timed. On a Hopper card
keys that sequences have in common are read once for several of them (kernels/cuda/deal.cu); `--no-bundles` has each read them. Prints one JSON line: seconds of
each round and tokens a second of their median. Open `main`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np

from redline import LLM, SamplingParams

VOCABULARY = 250  # every model has so many tokens


def main() -> None:
    options = _options()
    if not options.bundles:
        from redline.kernels import batch_attention_cuda

        batch_attention_cuda.room_for_bundles = lambda rows, group: 0
    random = np.random.default_rng(0)
    common = random.integers(0, VOCABULARY, options.common).tolist()
    prompts = [common + random.integers(0, VOCABULARY, options.own).tolist() for _ in range(options.requests)]
    longest = options.common + options.own + options.tokens
    with LLM(options.model, device=options.device, seed=0, max_model_len=longest, max_num_seqs=options.requests) as llm:
        if llm.info.device != "cpu":
            llm.prepare()
        llm.generate([prompts[0]], _answers(2))
        seconds = [_seconds(llm, prompts, options.tokens) for _ in range(options.rounds + 1)][
            1:
        ]  # the first compiles and captures
        made = options.requests * options.tokens / statistics.median(seconds)
        print(json.dumps({**vars(options), "seconds": [round(each, 3) for each in seconds], "tokens_per_s": round(made)}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--common", type=int, default=4000, help="tokens")
    parser.add_argument("--own", type=int, default=100, help="tokens of each prompt")
    parser.add_argument("--tokens", type=int, default=192, help="of an answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bundles", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


def _answers(tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)


def _seconds(llm: LLM, prompts: list[list[int]], tokens: int) -> float:
    began = time.perf_counter()
    llm.generate(prompts, _answers(tokens))
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
