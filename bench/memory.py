"""Device memory that a process takes, beside what was planned for it: `python bench/memory.py`, on a machine with an NVIDIA GPU.

Each of twelve configurations runs in a process of its own with 1 GiB of KV pages: it loads, captures what an idle server captures,
and answers prompts that fill its rows and its pages, sampled in every way that takes memory. What the device has less while it
runs than before (NVML) is held against the plan. `python bench/memory.py load MODEL --seconds 120` keeps a full pool at its limit
instead: more requests than fit, of the longest contexts that are admitted, and every one must be answered. JSON lines.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np

from redline.hardware.nvml import connect

MEBI = 1 << 20
CASES: list[tuple[str, dict[str, Any]]] = [
    ("random:llama-3.2-1b", {}),
    ("random:llama-3.2-1b", {"max_num_seqs": 16, "max_num_batched_tokens": 2048}),
    ("random:llama-3.2-1b", {"max_num_seqs": 512, "max_model_len": 2048}),
    ("random:llama-3.2-1b", {"max_num_batched_tokens": 16384}),
    ("random:llama-3.2-1b", {"enforce_eager": True}),
    ("random:llama-3.2-1b", {"dtype": "float32", "max_num_seqs": 64}),
    ("random:qwen3-8b", {}),
    ("random:qwen3-8b", {"max_num_seqs": 16, "max_num_batched_tokens": 2048}),
    ("random:qwen3-8b", {"max_num_seqs": 64, "max_model_len": 4096}),
    ("random:qwen3-8b", {"enforce_eager": True}),
    ("random:qwen2.5-0.5b", {"max_num_seqs": 128}),
    ("random:smollm2-135m", {}),
]
WAYS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 40, "top_p": 0.9, "min_p": 0.01},
    {"temperature": 0.7, "top_p": 0.9, "frequency_penalty": 0.5, "repetition_penalty": 1.1},
    {"temperature": 0.7, "frequency_penalty": 0.5, "logprobs": 5},
    {"temperature": 0.7, "prompt_logprobs": 5},
]


class Watch:
    """The most that the device had in use, asked for every 10 ms."""

    def __init__(self) -> None:
        self._nvml = connect()
        self.before = self.most = self.used()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def used(self) -> int:
        total, free = self._nvml.memory(0)
        return total - free

    def _look(self) -> None:
        while not self._ends.wait(0.01):
            self.most = max(self.most, self.used())

    def end(self) -> int:
        """Bytes beyond what was in use at first."""
        self._ends.set()
        self._thread.join()
        return self.most - self.before


def child(model: str, options: dict[str, Any]) -> None:
    """Load, prepare, fill; tell what was planned and what torch took."""
    import torch

    from redline import LLM, SamplingParams

    with LLM(model, device="cuda:0", kv_cache_memory=1.0, receipts=False, **options) as llm:
        llm.prepare()
        info, draw = llm.info, random.Random(0)
        held = info.num_pages * info.page_size
        rows = min(info.max_num_seqs, info.num_pages)
        each = min(held // rows, info.max_model_len) - 10

        def ask(count: int, prompt: int, output: int, **way: Any) -> None:
            prompts = [[draw.randrange(info.vocab_size) for _ in range(prompt)] for _ in range(count)]
            llm.generate(prompts, SamplingParams(max_tokens=output, ignore_eos=True, **way))

        for way in WAYS:
            ask(rows, max(1, each - 8), 8, **way)
        ask(1, min(held, info.max_model_len) - 80, 8, temperature=0.0)
        ask(4, min(held // 8, info.max_model_len - 20), 8, temperature=0.7, prompt_logprobs=5)
        stats = torch.cuda.memory_stats()
        told = {
            "planned_mib": info.planned_bytes / MEBI,
            "weights_mib": info.weight_bytes / MEBI,
            "kv_mib": info.kv_bytes / MEBI,
            "reserved_mib": stats["reserved_bytes.all.peak"] / MEBI,
            "allocated_peak_mib": stats["allocated_bytes.all.peak"] / MEBI,
            "graphs": llm.stats.more.get("graphs_captured", 0),
            "out_of_memory": llm.stats.more.get("out_of_memory_total", 0),
        }
    print(json.dumps(told), flush=True)


def compare(model: str, options: dict[str, Any]) -> dict[str, Any]:
    """One configuration in a process of its own."""
    watch = Watch()
    command = [sys.executable, __file__, "child", model, "--options", json.dumps(options)]
    ran = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    taken = watch.end() / MEBI
    if ran.returncode:
        return {"model": model, "options": options, "error": ran.stderr.strip()[-600:]}
    told = json.loads(ran.stdout.strip().splitlines()[-1])
    off = taken / told["planned_mib"] - 1
    figures = {name: round(value, 1) for name, value in told.items()}
    return {"model": model, "options": options, **figures, "taken_mib": round(taken, 1), "off": round(off, 4)}


def load(model: str, seconds: float, options: dict[str, Any]) -> dict[str, Any]:
    """More requests than fit, of the longest contexts that are admitted, sampled in every way, for so many seconds."""
    from redline import LLM, SamplingParams

    watch, draw, tokens = Watch(), random.Random(1), np.random.default_rng(1)
    with LLM(model, device="cuda:0", receipts=False, enable_prefix_caching=False, **options) as llm:
        llm.prepare()
        info = llm.info
        end = time.monotonic() + seconds

        def asks() -> Any:
            for number in itertools.count():
                output = draw.choice([16, 64, 256, 1024])
                prompt = info.max_model_len - output if number % 2 else draw.randrange(1, info.max_model_len - output)
                way = {name: value for name, value in WAYS[number % len(WAYS)].items() if name != "prompt_logprobs"}
                asked = tokens.integers(0, info.vocab_size, prompt).tolist()
                yield asked, SamplingParams(max_tokens=output, ignore_eos=True, **way), None

        began, done, short = time.monotonic(), 0, 0
        for _, completion in llm.complete(asks()):
            done += 1
            short += completion.choices[0].finish != "length"
            if time.monotonic() > end:
                break  # what is open is cancelled
        told = {
            "seconds": round(time.monotonic() - began, 1),
            "answered": done,
            "ended_otherwise": short,
            "prompt_tokens": llm.stats.prompt_tokens,
            "generation_tokens": llm.stats.generation_tokens,
            "preemptions": llm.stats.preemptions,
            "out_of_memory": llm.stats.more.get("out_of_memory_total", 0),
            "shrinks": llm.stats.more.get("token_budget_shrinks_total", 0),
            "max_model_len": info.max_model_len,
            "kv_mib": round(info.kv_bytes / MEBI),
            "planned_mib": round(info.planned_bytes / MEBI, 1),
        }
    taken = watch.end() / MEBI
    return {
        "model": model,
        "options": options,
        **told,
        "taken_mib": round(taken, 1),
        "off": round(taken / told["planned_mib"] - 1, 4),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", nargs="?", choices=["cases", "load", "child"], default="cases")
    parser.add_argument("model", nargs="?")
    parser.add_argument("--options", type=json.loads, default={}, help="of the engine, as JSON")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--first", type=int, default=1, help="number of the configuration to begin with")
    asked = parser.parse_args()
    if asked.kind == "child":
        child(asked.model, asked.options)
        return 0
    if asked.kind == "load":
        print(json.dumps({"bench": "memory load", **load(asked.model, asked.seconds, asked.options)}))
        return 0
    worst = 0.0
    for model, options in CASES[asked.first - 1 :]:
        told = compare(model, options)
        worst = max(worst, abs(told.get("off", 1.0)))
        print(json.dumps({"bench": "memory", **told}), flush=True)
    print(json.dumps({"bench": "memory", "configurations": len(CASES) + 1 - asked.first, "worst": worst}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
