"""Causal attention of packed query tokens over a paged KV cache.

    o[t, n] = sum_j softmax_j(scale * q[t, n] . k[j, n // G]) v[j, n // G]      over the keys j that token t sees
    token at position p sees  p - window < j <= p                               (window 0: every j <= p)

One call serves decode, chunked prefill and whole prompts of many sequences at once: `Ragged` says which tokens and pages
belong to whom. A token that sees nothing gets zeros, so padding is a sequence of context 0; rows of q that belong to no
sequence come back undefined. Knows nothing of layers or requests. Open `paged_attention` first; `Ragged` is in ragged.py, the CPU's
path is attention_torch.py, a GPU's begins in paged_runs.py; `prompt_attention` leaves whole prompts to whole_attention.py.

T packed query tokens, B sequences, N query heads, K kv heads, G = N / K, H head size, P pages (of a sequence, in the page
table; of the cache, elsewhere), S tokens per page, Q query tokens and C keys of one sequence.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from redline.kernels.attention_plan import Split
from redline.kernels.op import Inputs, OpSpec, ceil_div, random_tensor, use_triton
from redline.kernels.ragged import Ragged
from redline.ops import OPS


def paged_attention(
    q_TNH: Tensor, k_cache_PSKH: Tensor, v_cache_PSKH: Tensor, ragged: Ragged, scale: float, window: int = 0
) -> Tensor:
    """Attention of `q` over the cache, [T, N, H] contiguous, in q's type; sums are float32.

    The new tokens' keys and values must be in the cache already. N is a multiple of K, S a power of two; heads of a token
    are contiguous, tokens of `q` may lie at any stride. `window` counts the keys a token sees, itself included; 0 is all.
    """
    if use_triton(q_TNH):
        from redline.kernels import paged_runs

        return paged_runs.paged_attention(q_TNH, k_cache_PSKH, v_cache_PSKH, ragged, scale, window)
    from redline.kernels import attention_torch

    return attention_torch.paged_attention(q_TNH, k_cache_PSKH, v_cache_PSKH, ragged, scale, window)


def plan_prompts(
    ragged: Ragged, window: int, heads: tuple[int, int, int], dtype: torch.dtype, device: torch.device
) -> Split | None:
    """How to divide a step between kernels for whole prompts and the paged one, or None: the paged kernel takes it all. `heads`: N, K, H."""
    if device.type != "cuda":
        return None
    from redline.kernels import whole_attention

    return whole_attention.plan(ragged, window, heads, dtype, device)


def prepare_prompts(rows: int, heads: tuple[int, int, int], scale: float, dtype: torch.dtype, device: torch.device) -> None:
    """Do ahead what a whole prompt padded to `rows` would wait for. `heads`: N, K, H."""
    if device.type == "cuda":
        from redline.kernels import whole_attention

        whole_attention.prepare(rows, heads, scale, dtype, device)


def prompt_attention(
    heads: tuple[Tensor, Tensor, Tensor],
    split: Split,
    k_cache_PSKH: Tensor,
    v_cache_PSKH: Tensor,
    ragged: Ragged,
    scale: float,
    window: int = 0,
) -> Tensor:
    """As `paged_attention`, with the new tokens' q, k and v at hand: contiguous, of T + `split.tail` rows, the last finite."""
    from redline.kernels import whole_attention

    return whole_attention.attend(split, heads, k_cache_PSKH, v_cache_PSKH, ragged, scale, window)


def reference(
    q_TNH: Tensor, k_cache_PSKH: Tensor, v_cache_PSKH: Tensor, ragged: Ragged, scale: float, window: int = 0
) -> tuple[Tensor]:
    output_TNH = torch.zeros(q_TNH.shape, device=q_TNH.device)
    group = q_TNH.shape[1] // k_cache_PSKH.shape[2]
    page_size = k_cache_PSKH.shape[1]
    starts, contexts = ragged.query_start_B1.tolist(), ragged.context_B.tolist()
    for b, context in enumerate(contexts):
        for token in range(starts[b], starts[b + 1]):
            position = context - starts[b + 1] + token
            first = max(0, position - window + 1) if window else 0
            if position < first:
                continue
            keys = torch.arange(first, position + 1, device=q_TNH.device)
            pages, offsets = ragged.page_table_BP[b].long()[keys // page_size], keys % page_size
            k_CNH = k_cache_PSKH[pages, offsets].float().repeat_interleave(group, 1)
            v_CNH = v_cache_PSKH[pages, offsets].float().repeat_interleave(group, 1)
            weights_CN = torch.softmax((k_CNH * q_TNH[token].float()).sum(-1) * scale, 0)
            output_TNH[token] = (weights_CN[..., None] * v_CNH).sum(0)
    return (output_TNH,)


def make_ragged(
    queries: list[int],
    contexts: list[int],
    page_size: int,
    device: torch.device,
    seed: int,
    spare_columns: int = 2,
    known: bool = True,
) -> tuple[Ragged, int]:
    """A batch with these lengths (`known` on the host, or not) over randomly permuted pages, and the pages its cache needs.

    Columns of the page table that hold no key point far outside the cache, so that reading one shows.
    """
    counts = [ceil_div(context, page_size) for context in contexts]
    num_pages = sum(counts) + 2
    order = torch.randperm(num_pages, generator=torch.Generator().manual_seed(seed)).tolist()
    table_BP = torch.full((len(queries), max(counts) + spare_columns), 1 << 30, dtype=torch.int32)
    for b, count in enumerate(counts):
        table_BP[b, :count] = torch.tensor([order.pop() for _ in range(count)], dtype=torch.int32)
    starts = torch.tensor([0, *queries]).cumsum(0)
    ragged = Ragged(
        query_start_B1=starts.to(device, torch.int32),
        context_B=torch.tensor(contexts, dtype=torch.int32, device=device),
        page_table_BP=table_BP.to(device),
        max_query=max(queries),
        max_context=max(contexts),
        lengths=tuple(zip(queries, contexts, strict=True)) if known else None,
    )
    return ragged, num_pages


def make_inputs(axes: Mapping[str, int], dtype: torch.dtype, device: torch.device, seed: int) -> Inputs:
    """B sequences of at most Q query tokens and C keys, the first of exactly so many, over a cache whose free slots are NaN.

    `DENSE` lays the queries of tokens end to end; else they lie where a projection leaves them. `EMPTY` adds a sequence without history or query in second place, `PAD` so many with one query that sees nothing, last;
    `ALIKE` keeps the lengths from the host.
    """
    generator = torch.Generator().manual_seed(seed)
    queries, contexts = [axes["Q"]], [axes["C"]]
    for _ in range(axes["B"] - 1):
        queries.append(int(torch.randint(1, axes["Q"] + 1, (1,), generator=generator)))
        contexts.append(int(torch.randint(queries[-1], axes["C"] + 1, (1,), generator=generator)))
    if axes.get("EMPTY"):
        queries.insert(1, 0)
        contexts.insert(1, 0)
    queries += [1] * axes.get("PAD", 0)
    contexts += [0] * axes.get("PAD", 0)
    ragged, num_pages = make_ragged(queries, contexts, axes["S"], device, seed, known=not axes.get("ALIKE"))
    tokens, heads, kv_heads, size = sum(queries), axes["N"], axes["K"], axes["H"]
    qkv = random_tensor((tokens, (heads + 2 * kv_heads) * size), dtype, device, seed)
    q_TNH = qkv[:, : heads * size].view(tokens, heads, size)
    shape = (num_pages, axes["S"], kv_heads, size)
    used_PS = _used_slots(ragged, num_pages, axes["S"]).to(device)[..., None, None]
    return {
        "q_TNH": q_TNH.contiguous() if axes.get("DENSE") else q_TNH,
        "k_cache_PSKH": torch.where(used_PS, random_tensor(shape, dtype, device, seed + 1), torch.nan),
        "v_cache_PSKH": torch.where(used_PS, random_tensor(shape, dtype, device, seed + 2), torch.nan),
        "ragged": ragged,
        "scale": size**-0.5,
        "window": axes["W"],
    }


def _used_slots(ragged: Ragged, num_pages: int, page_size: int) -> Tensor:
    used_PS = torch.zeros((num_pages, page_size), dtype=torch.bool)
    table = ragged.page_table_BP.tolist()
    for b, context in enumerate(ragged.context_B.tolist()):
        for key in range(context):
            used_PS[table[b][key // page_size], key % page_size] = True
    return used_PS


def _case(b: int, q: int, c: int, heads: tuple[int, int], h: int, s: int = 16, w: int = 0, **extra: int) -> dict[str, int]:
    return {"B": b, "Q": q, "C": c, "N": heads[0], "K": heads[1], "H": h, "S": s, "W": w} | extra


SPEC = OpSpec(
    op=OPS["paged_attention"],
    reference=reference,
    run=paged_attention,
    make_inputs=make_inputs,
    cases=(
        _case(1, 1, 1, (1, 1), 64),
        _case(1, 1, 67, (9, 3), 64),
        _case(3, 1, 131, (14, 2), 64),
        _case(4, 1, 90, (4, 4), 80, s=1),
        _case(3, 1, 77, (8, 2), 96, s=128, w=33),
        _case(3, 1, 70, (16, 1), 128, EMPTY=1, PAD=2),
        _case(2, 1, 50, (4, 1), 256, s=4),
        _case(3, 5, 61, (6, 2), 72, s=2),
        _case(2, 16, 140, (8, 2), 128, s=32, w=19),
        _case(1, 33, 33, (3, 1), 64),
        _case(2, 37, 101, (14, 2), 64, w=24),
        _case(3, 70, 129, (4, 2), 80, s=64, EMPTY=1, PAD=3),
        _case(4, 40, 200, (4, 2), 64, s=64, EMPTY=1, PAD=2, ALIKE=1, DENSE=1),
        _case(2, 40, 290, (5, 1), 128, DENSE=1),
        _case(5, 20, 150, (4, 2), 128, s=128, w=70),
        _case(2, 19, 40, (2, 1), 256, s=8),
    ),
    tolerance="attention",
    triton="redline.kernels.paged_runs:paged_attention",
)
