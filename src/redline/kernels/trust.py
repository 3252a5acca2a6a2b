"""Whether kernels' results are right on a device, tried on small inputs: `wrong_result`, and `wrong_attention` for Hopper's decode steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from redline.errors import RedlineError
from redline.kernels.attention import make_ragged
from redline.kernels.op import Inputs, OpSpec

LARGEST_ERROR = 0.02
"""Of all results together, against float32: bf16's own is a quarter of it, and a wrong kernel's is near 1."""


CONTEXTS = {
    "clusters": (1, 270),
    "chunks": (2, 4300),
    "dealt": (64, 40),
    "dealt few heads": (1, 4300),
    "dealt long": (4, 4300),
    "bundled": (8, 900),
}
"""Sequences and keys for which each kind of attention is the usual one (of "chunks" for heads that cannot be dealt). Many blocks share a sequence of the
two before the last, and blocks read few heads of the first of them. Those of the last begin with the same pages, COMMON of them."""

COMMON = 13

PAGE_SIZE = 64  # the engine's own


def wrong_result(cases: Iterable[tuple[OpSpec, Mapping[str, int]]], device: torch.device) -> str | None:
    """None if the results of these cases on `device`, in bf16, are those of their references; otherwise what is wrong with one of them."""
    try:
        for spec, case in cases:
            inputs = spec.make_inputs(case, torch.bfloat16, device, 1)
            expected = spec.reference(**inputs)
            for want, got in zip(expected, spec.results(spec.run, inputs), strict=True):
                if not (torch.equal(got, want) if spec.tolerance == "exact" else _is_close(got, want)):
                    return f"the kernel of {spec.name} gives wrong results on this card"
    except (RedlineError, ImportError) as error:
        return f"the kernels cannot be used ({error})"
    return None


def wrong_attention(heads: int, kv_heads: int, size: int, normed: bool, device: torch.device) -> str | None:
    """The same for the attention of steps with one new token a sequence, of each kind that takes these heads (layers/chain.py)."""
    axes = {"N": heads, "K": kv_heads, "H": size, "S": PAGE_SIZE, "W": 0} | ({"NORM": 1} if normed else {})
    try:
        from redline.kernels import batch_attention_cuda, begin_cuda, decode_attention, decode_attention_cuda

        for kind, (rows, context) in CONTEXTS.items():
            inputs = decode_attention.make_inputs({"B": rows, "C": context, **axes}, torch.bfloat16, device, 1)
            inputs.pop("window")
            if kind == "bundled":
                inputs |= _with_common_pages(inputs, rows, context)
            want = decode_attention.reference(**inputs)[0].flatten(1)
            if kind not in ("clusters", "chunks"):
                if not batch_attention_cuda.takes(rows, heads, kv_heads, size, PAGE_SIZE):
                    continue
                deal = batch_attention_cuda.deal(inputs["ragged"], heads, kv_heads, size, PAGE_SIZE)
                torch.cuda.synchronize(device)  # in a step the layer before sees to that
                got = batch_attention_cuda.batch_attention(**inputs, deal=deal)
            else:
                order = begin_cuda.order(inputs["ragged"].context_B, kv_heads)
                torch.cuda.synchronize(device)
                got = decode_attention_cuda.decode_attention(**inputs, order=order)
            if not _is_close(got, want):
                return f"attention by {kind} gives wrong results on this card"
    except (RedlineError, ImportError) as error:
        return f"the attention kernels cannot be used ({error})"
    return None


def _with_common_pages(inputs: Inputs, rows: int, context: int) -> Inputs:
    """Sequences of so many keys each, and their caches."""
    _, page_size, kv_heads, size = inputs["k_cache_PSKH"].shape
    device = inputs["k_cache_PSKH"].device
    ragged, pages = make_ragged([1] * rows, [context] * rows, page_size, device, 1)
    ragged.page_table_BP[1:, :COMMON] = ragged.page_table_BP[0, :COMMON]
    generator, shape = torch.Generator(device).manual_seed(1), (pages, page_size, kv_heads, size)
    caches = (torch.randn(shape, generator=generator, device=device).to(torch.bfloat16) for _ in range(2))
    return {"ragged": ragged} | dict(zip(("k_cache_PSKH", "v_cache_PSKH"), caches, strict=True))


def _is_close(got: torch.Tensor, want: torch.Tensor) -> bool:
    """A NaN is not."""
    return bool((got.float() - want).norm() / want.float().norm() < LARGEST_ERROR)
