"""redline's offline door against transformers' generate, in one process, in turns: `python bench/against_transformers.py`.

Both run the same shape with random weights (speed does not depend on their values), greedy, end of text ignored, in the
same type on the same device; any shape that `random:` knows. Each figure is the median of interleaved rounds. A step is the
difference of two answers of different length over the difference of their tokens, as `redline bench decode` has it. With
--compiled transformers also runs with a static cache, for which it compiles its forward pass. Also measured, redline alone:
sixteen requests together against one at a time, and the time to the first token of a 1,000-token prompt, cold and from the
prefix cache. Prints a table, and one JSON line last.

    python bench/against_transformers.py --shape random:qwen3-8b --dtype bfloat16 --device cuda:0 --prompt 128 --tokens 256 --compiled
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from redline import LLM, SamplingParams
from redline.shapes import KNOWN, known

CONCURRENT = 16
LONG = 1000
SHORT_SHARE = 8  # the shorter answer has one token in so many
KV_GIB = 4.0  # of redline on a GPU, so that there is room for the other model


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    name = options.shape.removeprefix("random:")
    known(name)  # a sentence where there is no such shape
    memory = {} if options.device == "cpu" else {"kv_cache_memory": KV_GIB}
    with LLM(
        f"random:{name}",
        dtype=options.dtype,
        device=options.device,
        num_threads=options.threads,
        max_model_len=max(2048, options.prompt + options.tokens + 1),
        **memory,
    ) as llm:
        if options.device != "cpu":
            llm.prepare()  # steps are captured before anything is timed, as a server does in its idle moments
        ways = _ways(options, llm, _transformers(name, getattr(torch, llm.info.dtype), options.device))
        seconds = _measured(ways, options)
        first = [_first_tokens(llm, round) for round in range(options.rounds)]
    report = _report(options, llm.info.dtype, seconds, first)
    for title, value in report.items():
        print(f"{title:34} {value}")
    print(json.dumps(report))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="smollm2-135m", help="a known shape, with or without random: before it")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:N")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=32, help="tokens")
    parser.add_argument("--tokens", type=int, default=48, help="of an answer, 2 or more")
    parser.add_argument("--compiled", action="store_true", help="transformers also with a static cache, compiled")
    return parser.parse_args()


def _transformers(name: str, dtype: torch.dtype, device: str) -> Any:
    config = AutoConfig.for_model(**KNOWN[name], dtype=dtype)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def _ways(options: argparse.Namespace, llm: LLM, model: Any) -> dict[str, Callable[[int], None]]:
    """What takes turns, by name: a function of the answer's tokens."""
    prompt = [(17 * i) % 251 for i in range(options.prompt)]
    ways: dict[str, Callable[[int], None]] = {"transformers": lambda tokens: _generate(model, prompt, tokens, options.device)}
    if options.compiled:
        ways["compiled"] = lambda tokens: _generate(model, prompt, tokens, options.device, cache_implementation="static")
    ways["redline"] = lambda tokens: _answer(llm, prompt, tokens, 1)
    ways["redline_16"] = lambda tokens: _answer(llm, prompt, tokens, CONCURRENT)
    return ways


def _measured(ways: dict[str, Callable[[int], None]], options: argparse.Namespace) -> dict[str, list[tuple[float, float]]]:
    """Seconds of the short and the long answer, by way and round."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for round in range(options.rounds + 1):
        for name, run in ways.items():
            found = (_seconds(lambda run=run: run(_few(options))), _seconds(lambda run=run: run(options.tokens)))
            if round:  # the first compiles, allocates, fills caches
                seconds[name].append(found)
    return seconds


def _few(options: argparse.Namespace) -> int:
    return max(1, options.tokens // SHORT_SHARE)


@torch.inference_mode()
def _generate(model: Any, tokens: list[int], count: int, device: str, **how: Any) -> None:
    prompt = torch.tensor([tokens], device=device)
    model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=count,
        min_new_tokens=count,
        pad_token_id=0,
        **how,
    )
    if prompt.is_cuda:
        torch.cuda.synchronize()


def _answer(llm: LLM, prompt: list[int], tokens: int, count: int) -> None:
    prompts = [[*prompt[:-1], i] for i in range(count)]
    llm.generate(prompts, SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True))


def _first_tokens(llm: LLM, seed: int) -> tuple[float, float]:
    """Seconds to the first token of a long prompt that was never seen, and of the same one again."""
    prompt = [(31 * i + 7 * seed + 1) % 509 for i in range(LONG)]
    one = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True)
    return _seconds(lambda: llm.generate(prompt, one)), _seconds(lambda: llm.generate(prompt, one))


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _report(
    options: argparse.Namespace, dtype: str, seconds: dict[str, list[tuple[float, float]]], first: list[tuple[float, float]]
) -> dict[str, Any]:
    answers = {name: CONCURRENT if name == "redline_16" else 1 for name in seconds}
    rates = {name: [answers[name] * options.tokens / long for _, long in rounds] for name, rounds in seconds.items()}
    steps = {
        name: statistics.median((long - short) / (options.tokens - _few(options)) for short, long in rounds)
        for name, rounds in seconds.items()
    }
    middle = {name: statistics.median(values) for name, values in rates.items()}
    cold, hit = statistics.median(c for c, _ in first), statistics.median(h for _, h in first)
    return {
        "shape": options.shape,
        "dtype": dtype,
        "device": options.device,
        "torch": torch.__version__,
        "prompt": options.prompt,
        "tokens": options.tokens,
        **{f"{name}_tokens_per_s": round(value, 2) for name, value in middle.items()},
        **{f"{name}_spread": round((max(values) - min(values)) / middle[name], 3) for name, values in rates.items()},
        **{f"{name}_step_ms": round(value * 1e3, 3) for name, value in steps.items()},
        "redline_over_transformers": round(middle["redline"] / middle["transformers"], 3),
        "redline_over_transformers_by_step": round(steps["transformers"] / steps["redline"], 3),
        "sixteen_over_one": round(middle["redline_16"] / middle["redline"], 3),
        "first_token_cold_ms": round(cold * 1e3, 1),
        "first_token_prefix_hit_ms": round(hit * 1e3, 1),
        "cold_over_hit": round(statistics.median(c / h for c, h in first), 2),
    }


if __name__ == "__main__":
    main()
