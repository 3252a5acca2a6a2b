"""Probes of attention through the ops of this room: one new token over a long context, and a whole prompt.

Decoding is a rate of keys and values read, a prompt one of FLOPs. Open `probes`. Legend as in attention.py; T tokens of a prompt.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from redline.errors import InternalError, RedlineError
from redline.hardware.survey import Probe, Samples
from redline.kernels import attention, decode_attention, step_attention, timing
from redline.kernels.heads import HeadPreparation
from redline.kernels.probes_launch import free_bytes
from redline.kernels.ragged import Ragged
from redline.ops import visible_pairs

_MOST_SHARE = 4  # keys and values take at most this part of the memory that is free


@dataclass(frozen=True)
class Size:
    """Heads as a model has them, tokens of each sequence, sequences, tokens of a page, tokens of a prompt."""

    heads: int
    kv_heads: int
    head_size: int
    context: int
    sequences: int
    page_size: int
    prompt: int

    def kv_bytes(self, dtype: torch.dtype) -> int:
        """Keys and values of one sequence."""
        return 2 * self.context * self.kv_heads * self.head_size * dtype.itemsize

    def __str__(self) -> str:
        return f"{self.heads} heads of {self.head_size}, {self.kv_heads} of keys"


GPU = Size(32, 8, 128, 32768, 8, 64, 8192)  # an 8B model
CPU = Size(9, 3, 64, 4096, 16, 16, 512)  # SmolLM2-135M


def probes(device: torch.device, dtype: torch.dtype) -> Iterator[Probe]:
    """In `dtype`, the type of a model's activations on the device."""
    size = GPU if device.type == "cuda" else CPU
    name = str(dtype).removeprefix("torch.")
    decode = functools.partial(decoding, device, dtype, size)
    yield Probe("decode attention", "bytes/s", decode, 0.3, (("read", 1.0),))
    prompt = functools.partial(prefilling, device, dtype, size)
    yield Probe("prefill attention", "FLOP/s", prompt, 0.3, ((f"matmul {name}", 1.0),))


def decoding(device: torch.device, dtype: torch.dtype, size: Size, seconds: float) -> Samples:
    """bytes/s of the keys and values that a decode step of one layer reads."""
    rows = _sequences(device, dtype, size)
    ragged, k_cache, v_cache = _cache(size, [1] * rows, [size.context] * rows, dtype, device)
    columns = (size.heads + 2 * size.kv_heads) * size.head_size
    inputs = {
        "qkv_BM": torch.randn(rows, columns, device=device).to(dtype),
        "k_cache_PSKH": k_cache,
        "v_cache_PSKH": v_cache,
        "ragged": ragged,
        "prepare": HeadPreparation(None, None, 1e-5, torch.randn(size.context, size.head_size, device=device)),
        "scale": size.head_size**-0.5,
    }
    complaint = ""
    for name, attend in _paths(device, dtype, size):
        try:
            call = attend(inputs)
            call()
        except (RedlineError, ImportError, RuntimeError) as failure:
            complaint += f"; {name} cannot ({str(failure).partition(chr(10))[0]})"
            continue
        taken, how = _timed(call, device, seconds)
        moved = rows * size.kv_bytes(dtype)
        what = f"{rows} x {size.context} tokens, {size}, {_named(dtype)}, {name}{how}{complaint}"
        return Samples([moved / each for each in taken], what)
    raise InternalError(f"no kernel attends: {complaint.removeprefix('; ')}")


def prefilling(device: torch.device, dtype: torch.dtype, size: Size, seconds: float) -> Samples:
    """FLOP/s of causal attention of one prompt: four for each element of a head and pair of tokens that see each other."""
    tokens, scale = size.prompt, size.head_size**-0.5
    ragged, k_cache, v_cache = _cache(size, [tokens], [tokens], dtype, device)
    names = (size.heads, size.kv_heads, size.head_size)
    split = attention.plan_prompts(ragged, 0, names, dtype, device)
    rows = tokens + (split.tail if split is not None else 0)
    counts = (size.heads, size.kv_heads, size.kv_heads)
    q, k, v = (torch.randn(rows, count, size.head_size, device=device).to(dtype) for count in counts)
    if split is not None:
        name = "cuDNN's kernel"
        call = functools.partial(attention.prompt_attention, (q, k, v), split, k_cache, v_cache, ragged, scale)
    else:
        name = "redline's paged kernel" if device.type == "cuda" else "plain torch"
        call = functools.partial(attention.paged_attention, q[:tokens], k_cache, v_cache, ragged, scale)
    taken, how = _timed(call, device, seconds)
    flops = 4.0 * size.heads * size.head_size * visible_pairs(tokens, tokens, 0)
    return Samples([flops / each for each in taken], f"{tokens} tokens, {size}, {_named(dtype)}, {name}{how}")


Inputs = dict[str, Any]
Path = Callable[[Inputs], Callable[[], object]]
"""From the operands to a call."""


def _paths(device: torch.device, dtype: torch.dtype, size: Size) -> Iterator[tuple[str, Path]]:
    """Ways to attend, the best first: those of the engine's decode step."""
    on_gpu = device.type == "cuda"
    if step_attention.takes(device, dtype, size.heads, size.kv_heads, size.head_size, size.page_size):
        yield "redline's CUDA kernel", functools.partial(_on_hopper, size=size)
    name = "redline's Triton kernel" if on_gpu else "plain torch"
    yield name, lambda inputs: functools.partial(decode_attention.decode_attention, **inputs)


def _on_hopper(inputs: Inputs, size: Size) -> Callable[[], object]:
    """Hopper's kernel, with what a step makes once for all layers made before."""
    shared = step_attention.share(inputs["ragged"], size.heads, size.kv_heads, size.head_size, size.page_size)
    return functools.partial(step_attention.step_attention, **inputs, shared=shared)


def _sequences(device: torch.device, dtype: torch.dtype, size: Size) -> int:
    """As many as were asked for, or as fit into the memory that is free."""
    if device.type != "cuda":
        return size.sequences
    return max(1, min(size.sequences, free_bytes(device) // _MOST_SHARE // size.kv_bytes(dtype)))


def _cache(
    size: Size, queries: list[int], contexts: list[int], dtype: torch.dtype, device: torch.device
) -> tuple[Ragged, Tensor, Tensor]:
    """Sequences over random pages, and the two caches."""
    ragged, pages = attention.make_ragged(queries, contexts, size.page_size, device, 1)
    shape = (pages, size.page_size, size.kv_heads, size.head_size)
    k_cache, v_cache = (torch.randn(shape, dtype=dtype, device=device) for _ in range(2))
    return ragged, k_cache, v_cache


def _timed(call: Callable[[], object], device: torch.device, seconds: float) -> tuple[list[float], str]:
    if device.type == "cpu":
        return timing.on_host(call, seconds), ""
    replay, graph = timing.captured(call, device)
    return timing.on_device(replay, device, seconds), ", in a graph" if graph else ", launched one by one"


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
