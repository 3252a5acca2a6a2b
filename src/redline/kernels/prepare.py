"""What happens to a prompt's heads between the projection and attention, in one pass over them.

    q, k, v    = the heads of qkv[t]; q and k normalised over a head where the model does, and rotated to position p (rope.py)
    cache[s]   = k, v                        at slot s = slots[t] (kv_write.py); a negative slot is not written

The norms, rope.py and kv_write.py do the same in four passes; k and q are rounded to the element type where those round
them. Whoever attends without the cache also wants k and v, and rows of zeroes below the last token, so that it may read
past a prompt's end: `tail`. Knows nothing of layers. Open `prepare_heads` first.

T tokens, R = T + tail rows, N query heads, K kv heads, H head size, M = (N + 2K) H, P pages, S tokens per page, L positions
of the table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from redline import log
from redline.kernels.heads import HeadPreparation
from redline.kernels.kv_write import reference_write_kv, write_kv
from redline.kernels.norm import reference_rms_norm, rms_norm
from redline.kernels.op import Inputs, OpSpec, is_hopper, random_tensor, use_triton
from redline.kernels.rope import reference as reference_rotate
from redline.kernels.rope import rotate
from redline.kernels.trust import wrong_result
from redline.ops import OPS

MOST_OWN_SIZE = 256
"""Of heads that a Hopper card's own kernel (cuda/heads.cu) takes."""


def prepare_heads(
    qkv_TM: Tensor,
    positions_T: Tensor,
    slots_T: Tensor,
    k_cache_PSKH: Tensor,
    v_cache_PSKH: Tensor,
    prepare: HeadPreparation,
    tail: int | None = None,
) -> tuple[Tensor, ...]:
    """The queries ([T, N, H],), or with a `tail` q, k and v of R rows each: new contiguous tensors in the type of `qkv`. N may be 0.

    `qkv` is contiguous: query heads, key heads, value heads. `positions` and `slots` are int64; the slots of one call differ.
    """
    if use_triton(qkv_TM):
        if _has_own(qkv_TM, k_cache_PSKH) and _own_is_right(qkv_TM.device):
            return _by_own(qkv_TM, positions_T, slots_T, k_cache_PSKH, v_cache_PSKH, prepare, tail)
        from redline.kernels import prepare_triton

        return prepare_triton.prepare_heads(qkv_TM, positions_T, slots_T, k_cache_PSKH, v_cache_PSKH, prepare, tail)
    q_TNH, k_TKH, v_TKH = _heads(qkv_TM.clone(), k_cache_PSKH)
    if prepare.q_norm_H is not None and prepare.k_norm_H is not None:
        q_TNH, k_TKH = rms_norm(q_TNH, prepare.q_norm_H, prepare.eps), rms_norm(k_TKH, prepare.k_norm_H, prepare.eps)
    rotate(q_TNH, k_TKH, positions_T, prepare.cos_sin_LH)
    write_kv(k_TKH, v_TKH, k_cache_PSKH, v_cache_PSKH, slots_T)
    if tail is None:
        return (q_TNH.contiguous(),)
    return tuple(_extended(part, tail) for part in (q_TNH, k_TKH, v_TKH))


def _has_own(qkv_TM: Tensor, k_cache_PSKH: Tensor) -> bool:
    """Whether there is a Hopper card's own kernel for these heads."""
    size, dtype = k_cache_PSKH.shape[3], k_cache_PSKH.dtype
    return is_hopper(qkv_TM.device, dtype) and qkv_TM.dtype is dtype and size % 16 == 0 and size <= MOST_OWN_SIZE


def _own_is_right(device: torch.device) -> bool:
    """Held against the reference once on a device, for which it waits: not under capture."""
    if device not in _right:
        if torch.cuda.is_current_stream_capturing():
            return False
        reason = wrong_result(((dataclasses.replace(SPEC, run=_by_own), case) for case in SPEC.cases[-2:]), device)
        _right[device] = reason is None
        if reason is not None:
            log.fallback("prepare_heads", reason)
    return _right[device]


_right: dict[torch.device, bool] = {}


def _by_own(*args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
    from redline.kernels import prepare_cuda

    return prepare_cuda.prepare_heads(*args, **kwargs)


def _heads(qkv_TM: Tensor, k_cache_PSKH: Tensor) -> tuple[Tensor, ...]:
    kv_heads, size = k_cache_PSKH.shape[2:]
    heads = qkv_TM.view(qkv_TM.shape[0], -1, size)
    return heads.split((heads.shape[1] - 2 * kv_heads, kv_heads, kv_heads), 1)


def _extended(x_TMH: Tensor, tail: int) -> Tensor:
    return torch.cat((x_TMH, x_TMH.new_zeros((tail, *x_TMH.shape[1:]))))


def reference(
    qkv_TM: Tensor,
    positions_T: Tensor,
    slots_T: Tensor,
    k_cache_PSKH: Tensor,
    v_cache_PSKH: Tensor,
    prepare: HeadPreparation,
    tail: int | None = None,
) -> tuple[Tensor, ...]:
    """What `prepare_heads` returns, and the caches as they are afterwards."""
    q_TNH, k_TKH, v_TKH = _heads(qkv_TM.float(), k_cache_PSKH)
    if prepare.q_norm_H is not None and prepare.k_norm_H is not None:
        (q_TNH,) = reference_rms_norm(q_TNH, prepare.q_norm_H, prepare.eps)
        (k_TKH,) = reference_rms_norm(k_TKH, prepare.k_norm_H, prepare.eps)
    q_TNH, k_TKH = reference_rotate(q_TNH, k_TKH, positions_T, prepare.cos_sin_LH)
    caches = reference_write_kv(k_TKH, v_TKH, k_cache_PSKH.float(), v_cache_PSKH.float(), slots_T)
    if tail is None:
        return (q_TNH, *caches)
    return (*(_extended(part, tail) for part in (q_TNH, k_TKH, v_TKH)), *caches)


def _make_inputs(axes: Mapping[str, int], dtype: torch.dtype, device: torch.device, seed: int) -> Inputs:
    """Random positions and distinct slots, every third one negative with `SKIP`; norms with `NORM`; `TAIL` rows of zeroes
    (without it, queries alone)."""
    tokens, heads, kv_heads, size, page_size = (axes[name] for name in ("T", "N", "K", "H", "S"))
    generator = torch.Generator().manual_seed(seed)
    angles = torch.rand((axes["L"], size // 2), generator=generator) * 6.3
    pages = tokens // page_size + 2
    slots_T = torch.randperm(pages * page_size, generator=generator)[:tokens]
    if axes.get("SKIP"):
        slots_T[::3] = -1

    def norm(offset: int) -> Tensor | None:
        return 1 + random_tensor((size,), torch.float32, device, seed + offset) / 10 if axes.get("NORM") else None

    return {
        "qkv_TM": random_tensor((tokens, (heads + 2 * kv_heads) * size), dtype, device, seed),
        "positions_T": torch.randint(axes["L"], (tokens,), generator=generator).to(device),
        "slots_T": slots_T.to(device),
        "k_cache_PSKH": random_tensor((pages, page_size, kv_heads, size), dtype, device, seed + 1),
        "v_cache_PSKH": random_tensor((pages, page_size, kv_heads, size), dtype, device, seed + 2),
        "prepare": HeadPreparation(norm(3), norm(4), 1e-5, torch.cat((angles.cos(), angles.sin()), 1).to(device)),
        "tail": axes.get("TAIL"),
    }


SPEC = OpSpec(
    op=OPS["prepare_heads"],
    reference=reference,
    run=prepare_heads,
    make_inputs=_make_inputs,
    cases=(
        {"T": 1, "N": 1, "K": 1, "H": 2, "S": 1, "L": 1},
        {"T": 1, "N": 9, "K": 3, "H": 64, "S": 16, "L": 31, "SKIP": 1},
        {"T": 7, "N": 14, "K": 2, "H": 72, "S": 4, "L": 9, "TAIL": 3},
        {"T": 5, "N": 4, "K": 4, "H": 80, "S": 16, "L": 7, "NORM": 1, "TAIL": 0},
        {"T": 6, "N": 0, "K": 2, "H": 64, "S": 16, "L": 7, "NORM": 1},
        {"T": 3, "N": 33, "K": 1, "H": 128, "S": 64, "L": 5, "NORM": 1, "SKIP": 1},
        {"T": 4, "N": 8, "K": 4, "H": 256, "S": 8, "L": 3, "NORM": 1, "TAIL": 1},
        {"T": 3, "N": 32, "K": 8, "H": 128, "S": 64, "L": 5, "NORM": 1, "TAIL": 2},
    ),
    tolerance="elementwise",
    triton="redline.kernels.prepare_triton:prepare_heads",
    mutates=("k_cache_PSKH", "v_cache_PSKH"),
    batch_invariant=True,
)
