"""The one tolerance table: how far a result may be from its float32 reference, by class of op and element type.

The measure is the root mean square of the error over the root mean square of the reference, one number per tensor.
Nothing loosens it: no machine, environment or argument. The table is torch-free (the documentation is generated from it);
the functions take tensors but import nothing. Open `TOLERANCES` first, then `check`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCES: dict[str, dict[str, float]] = {
    # Bytes moved or integers chosen: nothing may differ.
    "exact": {"f32": 0.0, "bf16": 0.0, "f16": 0.0},
    # float32 arithmetic and one rounding of the result: at most half a unit in the last place.
    "elementwise": {"f32": 1e-6, "bf16": 4e-3, "f16": 5e-4},
    # As above, with an inner result rounded to the element type too (torch's activations on a CPU).
    "activation": {"f32": 1e-6, "bf16": 8e-3, "f16": 1e-3},
    # Sums over a row of inputs, in any order; one rounding of the result.
    "product": {"f32": 5e-6, "bf16": 4e-3, "f16": 5e-4},
    # Sums over the context; the probabilities are rounded to the element type before they meet V.
    "attention": {"f32": 5e-6, "bf16": 5e-3, "f16": 8e-4},
    # Logits of a whole model against the same model in float32.
    "model": {"f32": 1e-4, "bf16": 3e-2, "f16": 5e-3},
}


def rms_ratio(reference: Tensor, got: Tensor) -> float:
    """RMS(got - reference) / RMS(reference), computed in float64 on the reference's device.

    Entries that are the same infinity in both count as equal. A NaN that is not in both, a shape that differs or a wrong
    infinity gives infinity or NaN, which no tolerance admits. A reference of zeros gives 0 where `got` is zero too.
    """
    if reference.shape != got.shape:
        return math.inf
    want, have = reference.double(), got.to(reference.device).double()
    same_infinity = want.isinf() & (want == have)
    want, have = want.masked_fill(same_infinity, 0.0), have.masked_fill(same_infinity, 0.0)
    error = (have - want).square().sum().sqrt().item()
    scale = want.square().sum().sqrt().item()
    if error == 0.0:
        return 0.0
    return float(error / scale) if scale > 0.0 else math.inf


def check(name: str, reference: Tensor, got: Tensor, cls: str, dtype: str) -> float:
    """The ratio of `got`, or an AssertionError that names the tensor, the number and the limit."""
    limit = TOLERANCES[cls][dtype]
    ratio = rms_ratio(reference, got)
    if not ratio <= limit:  # written so that NaN fails
        raise AssertionError(
            f"{name}: RMS error / RMS of reference is {ratio:.3g}, the limit of {cls} in {dtype} is {limit:g} "
            f"(shapes {tuple(reference.shape)} and {tuple(got.shape)})"
        )
    return ratio
