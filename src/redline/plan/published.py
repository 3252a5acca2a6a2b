"""What others published of single GPUs, as data with sources: a limit that somebody beat is a bug, and the best engines say how near
a limit one comes. Open `Row`, then `ROWS`; `limit_s` is the limit of a row.

Sources: P is one H200 on which five engines were run by hand (random weights, greedy, CUDA graphs; 4.59 TB/s and 766 TFLOP/s were
measured there, fp8 1,305); the others are named. Rows whose number formats are not known are not here.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from redline.hardware.ceilings import Ceilings
from redline.plan.place import Place, on_chips
from redline.plan.precision import kv_format, weight_format
from redline.plan.predict import Predictor
from redline.plan.split import Layout
from redline.shapes import known

MEASURED = Ceilings("cuda:0", "NVIDIA H200", 4.59e12, {"bfloat16": 766e12, "fp8": 1305e12}, "2026-11-21")

_VLLM_BLOG = "vLLM blog 2026-04-22"
_SGLANG = "SGLang documentation, speculative decoding"
_GPT_FAST = "meta-pytorch/gpt-fast README"
_HAZY = "Hazy Research 2025-05-27"


@dataclass(frozen=True)
class Row:
    """One published step. `context` 0: prompts of `prompt` tokens to their first tokens. `ms` is the time reached."""

    engine: str
    model: str
    chip: str
    weights: str
    batch: int
    prompt: int
    context: int
    ms: float
    source: str


def _decode(model: str, weights: str, batch: int, prompt: int, **reached: float) -> list[Row]:
    """Rows of P: a steady step of 256 tokens stands at prompt + 144."""
    return [Row(engine, model, "P", weights, batch, prompt, prompt + 144, ms, "P") for engine, ms in reached.items()]


def _prefill(model: str, weights: str, batch: int, prompt: int, **reached: float) -> list[Row]:
    return [Row(engine, model, "P", weights, batch, prompt, 0, ms, "P") for engine, ms in reached.items()]


def _one(engine: str, model: str, chip: str, weights: str, ms: float, source: str, context: int = 1) -> Row:
    """A step of one sequence; context 1 where the source does not say: less than it had, so the limit is too small, never too large."""
    return Row(engine, model, chip, weights, 1, 0, context, ms, source)


ROWS: tuple[Row, ...] = (
    *_decode("qwen3-8b", "bf16", 1, 128, vllm=5.116, sglang=5.014, llamacpp=4.952, transformers=7.2),
    *_decode("qwen3-8b", "bf16", 8, 512, vllm=5.520, sglang=5.521, llamacpp=8.069),
    *_decode("qwen3-8b", "bf16", 32, 512, vllm=6.041, sglang=6.063, llamacpp=7.937),
    *_decode("qwen3-8b", "bf16", 128, 512, vllm=9.229, sglang=9.430, llamacpp=14.10),
    *_decode("qwen3-8b", "bf16", 256, 512, vllm=14.916, sglang=15.033),
    *_decode("llama-3.2-1b", "bf16", 1, 128, vllm=1.224, sglang=1.210, llamacpp=1.272, transformers=2.24),
    *_decode("llama-3.2-1b", "bf16", 8, 512, vllm=1.448, sglang=1.340, llamacpp=2.110),
    *_decode("llama-3.2-1b", "bf16", 32, 512, vllm=1.546, sglang=1.545, llamacpp=2.495),
    *_decode("llama-3.2-1b", "bf16", 128, 512, vllm=2.431, sglang=2.490),
    *_decode("llama-3.2-1b", "bf16", 256, 512, vllm=3.655, sglang=3.736),
    *_prefill("qwen3-8b", "bf16", 8, 4096, vllm=808, sglang=829),
    *_prefill("qwen3-8b", "bf16", 1, 128, vllm=9.6, sglang=12.5),
    *_prefill("qwen3-8b", "bf16", 1, 512, vllm=17.1, sglang=18.6),
    *_prefill("qwen3-8b", "bf16", 1, 4096, vllm=101.5, sglang=108.3, llamacpp=165),
    *_prefill("llama-3.2-1b", "bf16", 8, 4096, vllm=132.4, sglang=137.7),
    *_prefill("llama-3.2-1b", "bf16", 1, 128, vllm=5.3, sglang=5.9),
    *_prefill("llama-3.2-1b", "bf16", 1, 512, vllm=7.9, sglang=5.9),
    *_prefill("llama-3.2-1b", "bf16", 1, 4096, vllm=19.4, sglang=18.2, llamacpp=43),
    *_decode("qwen3-8b", "fp8", 1, 128, vllm=3.679),
    *_decode("qwen3-8b", "fp8", 32, 512, vllm=5.137),
    *_decode("qwen3-8b", "fp8", 256, 512, vllm=13.23),
    *_prefill("qwen3-8b", "fp8", 8, 4096, vllm=564),
    *_decode("qwen3-8b", "q8_0", 1, 128, llamacpp=4.113),
    *_decode("qwen3-8b", "q8_0", 8, 512, llamacpp=7.713),
    *_decode("qwen3-8b", "q8_0", 32, 512, llamacpp=10.76),
    *_decode("qwen3-8b", "q8_0", 128, 512, llamacpp=23.6),
    *_decode("qwen3-8b", "q4_k_m", 1, 128, llamacpp=3.530),
    *_decode("qwen3-8b", "q4_k_m", 8, 512, llamacpp=8.281),
    *_decode("qwen3-8b", "q4_k_m", 32, 512, llamacpp=10.27),
    *_decode("qwen3-8b", "q4_k_m", 128, 512, llamacpp=25.8),
    _one("vllm", "llama-3.1-8b", "h100", "bf16", 6.44, _VLLM_BLOG),
    _one("sglang", "llama-3.1-8b", "h100", "bf16", 1e3 / 158.3, _SGLANG),
    _one("vllm", "llama-3.1-8b", "b200", "bf16", 3.93, _VLLM_BLOG),
    _one("gpt-fast", "llama-3.1-8b", "a100", "bf16", 1e3 / 93.9, _GPT_FAST),
    _one("gpt-fast", "llama-3.1-8b", "a100", "int8", 1e3 / 137.6, _GPT_FAST),
    _one("gpt-fast", "llama-2-7b", "a100", "int4", 1e3 / 196.8, _GPT_FAST),
    _one("megakernel", "llama-3.2-1b", "h100", "bf16", 0.95, _HAZY),
    _one("megakernel", "llama-3.2-1b", "b200", "bf16", 0.60, _HAZY),
    _one("megakernel", "llama-3.2-1b", "gb10", "bf16", 1e3 / 95.9, "HazyResearch/Megakernels PR 11"),
    _one("torch.compile", "llama-3.2-1b", "gb10", "bf16", 1e3 / 72.1, "HazyResearch/Megakernels PR 11"),
    _one("megakernel", "qwen3-0.6b", "5090", "bf16", 1e3 / 1033, "alpindale blog, February 2026"),
    _one("MegaQwen", "qwen3-0.6b", "3090", "bf16", 1e3 / 530, "elliotarledge blog, February 2026"),
    _one("llamacpp", "llama-3.1-8b", "3090", "q4_0", 1e3 / 156, "llama.cpp PR 15802"),
)


def place(row: Row) -> Place:
    """Where a row ran: the measured H200, or a chip of the table, whose limit is its data sheet's."""
    if row.chip != "P":
        return on_chips(row.chip)
    return dataclasses.replace(on_chips("h200"), ceilings=MEASURED, peak=MEASURED, doubts=())


def predictor(row: Row) -> Predictor:
    """The forecast of what a row's engine did."""
    return Predictor(known(row.model), place(row), weight_format(row.weights), kv_format("bf16"), Layout(), tokens=1 << 16)


def limit_s(row: Row) -> float:
    """Least seconds of what the row did."""
    made = predictor(row)
    told = made.decode(row.batch, row.context).seconds if row.context else made.first_token(row.prompt, row.batch)
    return told.limit or 0.0
