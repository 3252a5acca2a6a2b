"""Rotary position embedding of q and k, in place.

    (a, b) = the two halves of a head at position p
    a' = a * cos(p) - b * sin(p)
    b' = b * cos(p) + a * sin(p)                                     (Su et al., 2021; the half-split pairing of GPT-NeoX)

The angles of every position come as one float32 table, so all kinds of rope scaling look alike here. Arithmetic is
float32, rounded once. Knows nothing of models. Open `rotate` first.

T tokens, N query heads, K kv heads, M of either, H head size, L positions of the table.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from redline.kernels.op import Inputs, OpSpec, random_tensor, use_triton
from redline.ops import OPS


def rotate(q_TNH: Tensor, k_TKH: Tensor, positions_T: Tensor, cos_sin_LH: Tensor) -> None:
    """Rotate every head of `q` and `k` to its token's position, in place.

    `cos_sin` is float32: row p holds cos of the H/2 angles of position p, then sin. Heads of a token are contiguous; tokens
    may lie at any stride (q and k are usually slices of one projection). `positions` is int64, within the table.
    """
    if use_triton(q_TNH):
        from redline.kernels import rope_triton

        return rope_triton.rotate(q_TNH, k_TKH, positions_T, cos_sin_LH)
    cos_sin_T1H = cos_sin_LH.index_select(0, positions_T).unsqueeze(1)
    if _follows(q_TNH, k_TKH):
        heads = q_TNH.shape[1] + k_TKH.shape[1]
        _rotate(q_TNH.as_strided((q_TNH.shape[0], heads, q_TNH.shape[2]), q_TNH.stride()), cos_sin_T1H)
    else:
        _rotate(q_TNH, cos_sin_T1H)
        _rotate(k_TKH, cos_sin_T1H)


def _follows(q_TNH: Tensor, k_TKH: Tensor) -> bool:
    """Whether k's heads lie right behind q's in memory, so that both are one strided tensor: half the calls."""
    return (
        q_TNH.stride() == k_TKH.stride()
        and q_TNH.untyped_storage().data_ptr() == k_TKH.untyped_storage().data_ptr()
        and k_TKH.storage_offset() - q_TNH.storage_offset() == q_TNH.shape[1] * q_TNH.shape[2]
    )


def _rotate(x_TMH: Tensor, cos_sin_T1H: Tensor) -> None:
    cos, sin = cos_sin_T1H.chunk(2, -1)
    first, second = x_TMH.chunk(2, -1)
    # float32 times a half type is float32, so only the two copies back round.
    rotated = (first * cos).addcmul_(second, sin, value=-1)
    if x_TMH.dtype is torch.float32:
        second.mul_(cos).addcmul_(first, sin)
    else:
        second.copy_((second * cos).addcmul_(first, sin))
    first.copy_(rotated)


def reference(q_TNH: Tensor, k_TKH: Tensor, positions_T: Tensor, cos_sin_LH: Tensor) -> tuple[Tensor, Tensor]:
    half = cos_sin_LH.shape[1] // 2
    cos, sin = cos_sin_LH[positions_T, None, :half], cos_sin_LH[positions_T, None, half:]

    def turned(x_TMH: Tensor) -> Tensor:
        a, b = x_TMH[..., :half].float(), x_TMH[..., half:].float()
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    return turned(q_TNH), turned(k_TKH)


def _make_inputs(axes: Mapping[str, int], dtype: torch.dtype, device: torch.device, seed: int) -> Inputs:
    """q and k as slices of one projection that also holds v; with `APART`, as tensors of their own."""
    tokens, heads, kv_heads, size = axes["T"], axes["N"], axes["K"], axes["H"]
    qkv = random_tensor((tokens, (heads + 2 * kv_heads) * size), dtype, device, seed)
    q, k, _ = qkv.split((heads * size, kv_heads * size, kv_heads * size), 1)
    if axes.get("APART"):
        q, k = q.contiguous(), k.contiguous()
    generator = torch.Generator().manual_seed(seed)
    angles = torch.rand((axes["L"], size // 2), generator=generator) * 6.3
    return {
        "q_TNH": q.view(tokens, heads, size),
        "k_TKH": k.view(tokens, kv_heads, size),
        "positions_T": torch.randint(axes["L"], (tokens,), generator=generator).to(device),
        "cos_sin_LH": torch.cat((angles.cos(), angles.sin()), 1).to(device),
    }


SPEC = OpSpec(
    op=OPS["rotate"],
    reference=reference,
    run=rotate,
    make_inputs=_make_inputs,
    cases=(
        {"T": 1, "N": 1, "K": 1, "H": 2, "L": 1},
        {"T": 1, "N": 9, "K": 3, "H": 64, "L": 31},
        {"T": 5, "N": 14, "K": 2, "H": 72, "L": 7},
        {"T": 3, "N": 4, "K": 4, "H": 80, "L": 5, "APART": 1},
        {"T": 2, "N": 33, "K": 1, "H": 128, "L": 3},
        {"T": 2, "N": 8, "K": 4, "H": 256, "L": 3},
    ),
    tolerance="elementwise",
    triton="redline.kernels.rope_triton:rotate",
    mutates=("q_TNH", "k_TKH"),
    batch_invariant=True,
)
