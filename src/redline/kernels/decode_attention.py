"""Attention of one new token per sequence, from the raw projection to the heads' outputs, the cache written on the way.

    q, k, v     = the heads of qkv[b], q and k normalised where the model does (RMS over a head), and rotated (rope.py)
    cache[p]    = k, v                          at the token's position p = context - 1
    o[b, n]     = sum_j softmax_j(scale * q[n] . k[j, n // G]) v[j, n // G]        over p - window < j <= p

What three kernels do one after another in prefill (norms, rope.py, kv_write.py, attention.py) happens here inside one,
since with one token per sequence each of them would be little more than its launch. k and q are rounded to the element type
where those kernels round them. A sequence of context 0 is padding: it reads and writes nothing and gets zeros. Knows nothing
of layers. Open `decode_attention` first; the kernel is in decode_attention_triton.py.

B sequences, N query heads, K kv heads, G = N / K, H head size, P pages, S tokens per page, L positions of the table.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from redline.kernels import attention
from redline.kernels.attention import paged_attention
from redline.kernels.heads import HeadPreparation
from redline.kernels.norm import reference_rms_norm, rms_norm
from redline.kernels.op import Inputs, OpSpec, random_tensor, use_triton
from redline.kernels.ragged import Ragged
from redline.kernels.rope import rotate
from redline.ops import OPS


def decode_attention(
    qkv_BM: Tensor,
    k_cache_PSKH: Tensor,
    v_cache_PSKH: Tensor,
    ragged: Ragged,
    prepare: HeadPreparation,
    scale: float,
    window: int = 0,
) -> Tensor:
    """[B, N, H] in the projection's type; writes each new token's key and value into the caches.

    `qkv` is [B, (N + 2K) H] contiguous: query heads, key heads, value heads. `ragged` has one query per sequence and counts
    the new token in its context.
    """
    if use_triton(qkv_BM):
        from redline.kernels import decode_attention_triton

        return decode_attention_triton.decode_attention(qkv_BM, k_cache_PSKH, v_cache_PSKH, ragged, prepare, scale, window)
    q_BNH, k_BKH, v_BKH = _heads(qkv_BM.clone(), k_cache_PSKH)
    if prepare.q_norm_H is not None and prepare.k_norm_H is not None:
        q_BNH, k_BKH = rms_norm(q_BNH, prepare.q_norm_H, prepare.eps), rms_norm(k_BKH, prepare.k_norm_H, prepare.eps)
    rotate(q_BNH, k_BKH, (ragged.context_B.long() - 1).clamp_(min=0), prepare.cos_sin_LH)
    _write(k_BKH, v_BKH, k_cache_PSKH, v_cache_PSKH, ragged)
    return paged_attention(q_BNH, k_cache_PSKH, v_cache_PSKH, ragged, scale, window)


def reference(
    qkv_BM: Tensor,
    k_cache_PSKH: Tensor,
    v_cache_PSKH: Tensor,
    ragged: Ragged,
    prepare: HeadPreparation,
    scale: float,
    window: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """The outputs and the caches as they are afterwards. New keys are rounded to the cache's type, as they are stored."""
    q_BNH, k_BKH, v_BKH = _heads(qkv_BM.float(), k_cache_PSKH)
    if prepare.q_norm_H is not None and prepare.k_norm_H is not None:
        (q_BNH,) = reference_rms_norm(q_BNH, prepare.q_norm_H, prepare.eps)
        (k_BKH,) = reference_rms_norm(k_BKH, prepare.k_norm_H, prepare.eps)
    positions_B = (ragged.context_B.long() - 1).clamp(min=0)
    q_BNH, k_BKH = _rotated(q_BNH, positions_B, prepare.cos_sin_LH), _rotated(k_BKH, positions_B, prepare.cos_sin_LH)
    k_cache_PSKH, v_cache_PSKH = k_cache_PSKH.clone(), v_cache_PSKH.clone()
    _write(k_BKH.to(k_cache_PSKH.dtype), v_BKH.to(v_cache_PSKH.dtype), k_cache_PSKH, v_cache_PSKH, ragged)
    (output_BNH,) = attention.reference(q_BNH, k_cache_PSKH, v_cache_PSKH, ragged, scale, window)
    return output_BNH, k_cache_PSKH, v_cache_PSKH


def _heads(qkv_BM: Tensor, k_cache_PSKH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    kv_heads, size = k_cache_PSKH.shape[2:]
    heads_BMH = qkv_BM.view(len(qkv_BM), -1, size)
    q_BNH, k_BKH, v_BKH = heads_BMH.split((heads_BMH.shape[1] - 2 * kv_heads, kv_heads, kv_heads), dim=1)
    return q_BNH, k_BKH, v_BKH


def _rotated(x_BMH: Tensor, positions_B: Tensor, cos_sin_LH: Tensor) -> Tensor:
    cos, sin = cos_sin_LH[positions_B][:, None].chunk(2, -1)
    a, b = x_BMH.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def _write(k_BKH: Tensor, v_BKH: Tensor, k_cache_PSKH: Tensor, v_cache_PSKH: Tensor, ragged: Ragged) -> None:
    page_size = k_cache_PSKH.shape[1]
    for b, context in enumerate(ragged.context_B.tolist()):
        if context:
            page = int(ragged.page_table_BP[b, (context - 1) // page_size])
            k_cache_PSKH[page, (context - 1) % page_size] = k_BKH[b]
            v_cache_PSKH[page, (context - 1) % page_size] = v_BKH[b]


def make_inputs(axes: Mapping[str, int], dtype: torch.dtype, device: torch.device, seed: int) -> Inputs:
    """As attention.make_inputs with one query each; the slot of every new token is NaN until it is written."""
    inputs = attention.make_inputs({**axes, "Q": 1}, dtype, device, seed)
    ragged: Ragged = inputs["ragged"]
    size = axes["H"]
    new = torch.full((len(ragged.context_B), axes["K"], size), torch.nan, dtype=dtype, device=device)
    _write(new, new, inputs["k_cache_PSKH"], inputs["v_cache_PSKH"], ragged)
    norms = [1 + random_tensor((size,), torch.float32, device, seed + 5 + i) / 10 if axes.get("NORM") else None for i in (0, 1)]
    angles_LC = torch.arange(ragged.max_context, dtype=torch.float32)[:, None] * 0.7 ** torch.arange(size // 2)
    return {
        "qkv_BM": random_tensor((len(ragged.context_B), (axes["N"] + 2 * axes["K"]) * size), dtype, device, seed + 3),
        "k_cache_PSKH": inputs["k_cache_PSKH"],
        "v_cache_PSKH": inputs["v_cache_PSKH"],
        "ragged": ragged,
        "prepare": HeadPreparation(norms[0], norms[1], 1e-5, torch.cat((angles_LC.cos(), angles_LC.sin()), 1).to(device)),
        "scale": inputs["scale"],
        "window": inputs["window"],
    }


def case(b: int, c: int, heads: tuple[int, int], h: int, s: int = 16, w: int = 0, **extra: int) -> dict[str, int]:
    """Axes of `make_inputs`: sequences, keys, (query, key-value) heads, head size, tokens of a page, window."""
    return {"B": b, "C": c, "N": heads[0], "K": heads[1], "H": h, "S": s, "W": w} | extra


SPEC = OpSpec(
    op=OPS["decode_attention"],
    reference=reference,
    run=decode_attention,
    make_inputs=make_inputs,
    cases=(
        case(1, 1, (1, 1), 64),
        case(1, 300, (9, 3), 64),
        case(3, 131, (14, 2), 64, NORM=1),
        case(2, 90, (4, 4), 80, s=1),
        case(3, 177, (8, 2), 96, s=128, w=33),
        case(3, 270, (16, 1), 128, PAD=2, NORM=1),
        case(2, 50, (4, 1), 256, s=4),
    ),
    tolerance="attention",
    triton="redline.kernels.decode_attention_triton:decode_attention",
    mutates=("k_cache_PSKH", "v_cache_PSKH"),
)
