"""redline's offline door against transformers' generate, in one process, in turns: `python bench/against_transformers.py`.

Both run the same shape with random weights (speed does not depend on their values), greedy, end of text ignored, in the
same type on the same device. Each figure is the median of interleaved rounds. Also measured, redline alone: sixteen
requests together against one at a time, and the time to the first token of a 1,000-token prompt, cold and from the
prefix cache. Prints a table, and one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from redline import LLM, SamplingParams
from redline.shapes import ModelShape, known

PROMPT = [(17 * i) % 251 for i in range(32)]
TOKENS = 48
CONCURRENT = 16
LONG = 1000


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    shape = known(options.shape)
    with LLM(
        f"random:{options.shape}", dtype=options.dtype, device=options.device, num_threads=options.threads, max_model_len=2048
    ) as llm:
        reference = _transformers(shape, getattr(torch, llm.info.dtype), options.device)
        rates: dict[str, list[float]] = {"transformers": [], "redline": [], "redline_16": []}
        _generate(reference, options.device)
        _answer(llm, 1)
        for _ in range(options.rounds):
            rates["transformers"].append(TOKENS / _seconds(lambda: _generate(reference, options.device)))
            rates["redline"].append(TOKENS / _seconds(lambda: _answer(llm, 1)))
            rates["redline_16"].append(CONCURRENT * TOKENS / _seconds(lambda: _answer(llm, CONCURRENT)))
        first = [_first_tokens(llm, round) for round in range(options.rounds)]
    report = _report(options, llm.info.dtype, rates, first)
    for name, value in report.items():
        print(f"{name:34} {value}")
    print(json.dumps(report))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="smollm2-135m", help="a known Llama shape")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def _transformers(shape: ModelShape, dtype: torch.dtype, device: str) -> Any:
    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_size,
        max_position_embeddings=shape.max_position,
        tie_word_embeddings=shape.tie_embeddings,
        dtype=dtype,
    )
    with torch.device(device):
        return LlamaForCausalLM(config).to(dtype).eval()


@torch.inference_mode()
def _generate(model: Any, device: str) -> None:
    prompt = torch.tensor([PROMPT], device=device)
    model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=TOKENS,
        min_new_tokens=TOKENS,
        pad_token_id=0,
    )


def _answer(llm: LLM, count: int) -> None:
    prompts = [[*PROMPT[:-1], i] for i in range(count)]
    llm.generate(prompts, SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True))


def _first_tokens(llm: LLM, seed: int) -> tuple[float, float]:
    """Seconds to the first token of a long prompt that was never seen, and of the same one again."""
    prompt = [(31 * i + 7 * seed + 1) % 509 for i in range(LONG)]
    one = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True)
    return _seconds(lambda: llm.generate(prompt, one)), _seconds(lambda: llm.generate(prompt, one))


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _report(
    options: argparse.Namespace, dtype: str, rates: dict[str, list[float]], first: list[tuple[float, float]]
) -> dict[str, Any]:
    middle = {name: statistics.median(values) for name, values in rates.items()}
    cold, hit = statistics.median(c for c, _ in first), statistics.median(h for _, h in first)
    return {
        "shape": options.shape,
        "dtype": dtype,
        "device": options.device,
        "torch": torch.__version__,
        **{f"{name}_tokens_per_s": round(value, 2) for name, value in middle.items()},
        **{f"{name}_spread": round((max(values) - min(values)) / middle[name], 3) for name, values in rates.items()},
        "redline_over_transformers": round(middle["redline"] / middle["transformers"], 3),
        "sixteen_over_one": round(middle["redline_16"] / middle["redline"], 3),
        "first_token_cold_ms": round(cold * 1e3, 1),
        "first_token_prefix_hit_ms": round(hit * 1e3, 1),
        "cold_over_hit": round(statistics.median(c / h for c, h in first), 2),
    }


if __name__ == "__main__":
    main()
