"""One file per op: the formula, a float32 reference, a plain-torch path for CPUs, the wrapper, the record `OpSpec`.

The Triton kernels of `<op>.py` lie in `<op>_triton.py` and are imported with the first CUDA tensor. This room knows
tensors and nothing of layers, models or requests. Open norm.py first (the smallest whole example), then op.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redline.kernels.op import OpSpec

__all__ = ["all_specs"]


def all_specs() -> dict[str, OpSpec]:
    """Every op of the room by name: what tests, benchmarks and the generated documentation iterate over."""
    from redline.kernels import (
        activation,
        attention,
        decode_attention,
        decode_step,
        gated_linear,
        gemv,
        invariant,
        invariant_attention,
        kv_write,
        mask,
        norm,
        penalties,
        prepare,
        project_heads,
        prompt_step,
        rope,
        sample,
        skinny,
        step_attention,
    )

    specs = (
        norm.RMS_NORM,
        norm.ADD_RMS_NORM,
        rope.SPEC,
        activation.SILU_MUL,
        activation.GELU_TANH_MUL,
        kv_write.WRITE_KV,
        kv_write.COPY_PAGES,
        attention.SPEC,
        decode_attention.SPEC,
        step_attention.SPEC,
        gemv.PROJECT,
        gemv.NORM_LINEAR,
        gemv.NORM_GATED,
        gemv.LINEAR_ADD,
        gated_linear.SPEC,
        project_heads.SPEC,
        skinny.LINEAR,
        skinny.GATED,
        skinny.PROJECT,
        skinny.CHOOSE,
        skinny.ADD,
        sample.SPEC,
        penalties.SPEC,
        mask.SPEC,
        decode_step.BEGIN,
        decode_step.END,
        prepare.SPEC,
        prompt_step.SPEC,
        invariant.SPEC,
        invariant_attention.SPEC,
    )
    return {spec.name: spec for spec in specs}
