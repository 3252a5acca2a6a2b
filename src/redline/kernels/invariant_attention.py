"""attention.py's formula, of which a query's result never depends, bit for bit, on what shares the step.

Not on other sequences, not on the bounds in `Ragged`, and not on how a prompt came: whole, in chunks, behind a prefix that the
cache held, or a token at a time. Keys are summed by segments that begin at fixed positions of their sequence; which program takes
a segment is another matter. Knows nothing of layers. Open `invariant_attention` first; the kernels are in
invariant_attention_triton.py. Legend as in attention.py.
"""

from __future__ import annotations

from torch import Tensor

from redline.kernels import attention
from redline.kernels.op import OpSpec, use_triton
from redline.kernels.ragged import Ragged
from redline.ops import OPS


def invariant_attention(
    q_TNH: Tensor, k_cache_PSKH: Tensor, v_cache_PSKH: Tensor, ragged: Ragged, scale: float, window: int = 0
) -> Tensor:
    """See attention.paged_attention, of which it takes what that takes."""
    if use_triton(q_TNH):
        from redline.kernels import invariant_attention_triton

        return invariant_attention_triton.invariant_attention(q_TNH, k_cache_PSKH, v_cache_PSKH, ragged, scale, window)
    # A query at a time: the twin is for comparison, not for speed.
    (output_TNH,) = attention.reference(q_TNH, k_cache_PSKH, v_cache_PSKH, ragged, scale, window)
    return output_TNH.to(q_TNH.dtype)


SPEC = OpSpec(
    op=OPS["invariant_attention"],
    reference=attention.reference,
    run=invariant_attention,
    make_inputs=attention.make_inputs,
    cases=(
        *attention.SPEC.cases,
        {"B": 2, "Q": 2, "C": 1100, "N": 8, "K": 2, "H": 64, "S": 16, "W": 0, "PAD": 1},
        {"B": 2, "Q": 18, "C": 700, "N": 4, "K": 2, "H": 128, "S": 64, "W": 560},
    ),
    tolerance="attention",
    triton="redline.kernels.invariant_attention_triton:invariant_attention",
    batch_invariant=True,
)
