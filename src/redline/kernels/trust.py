"""Whether kernels' results are right on a device, tried on small inputs: `wrong_result`."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from redline.errors import RedlineError
from redline.kernels.op import OpSpec

LARGEST_ERROR = 0.02
"""Of all results together, against float32: bf16's own is a quarter of it, and a wrong kernel's is near 1."""


def wrong_result(specs: Iterable[OpSpec], device: torch.device) -> str | None:
    """None if every op's results on `device`, in bf16, are those of its reference, for its third case and its last (few rows and many); otherwise
    what is wrong with one of them."""
    try:
        for spec in specs:
            for case in (spec.cases[2], spec.cases[-1]):
                inputs = spec.make_inputs(case, torch.bfloat16, device, 1)
                expected = spec.reference(**inputs)
                for want, got in zip(expected, spec.results(spec.run, inputs), strict=True):
                    error = (got.float() - want).norm() / want.float().norm()
                    if not (torch.equal(got, want) if spec.tolerance == "exact" else error < LARGEST_ERROR):  # a NaN is not
                        return f"the kernel of {spec.name} gives wrong results on this card"
    except (RedlineError, ImportError) as error:
        return f"the kernels cannot be used ({error})"
    return None
