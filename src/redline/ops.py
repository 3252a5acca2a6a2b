"""What each op costs and where it runs, torch-free: the half of an op's record that the planner reads.

An `Op` counts the bytes an ideal kernel must read and write and the floating-point operations it must do, from the
values of its axes. The other half (reference, inputs, launchers) is `kernels.op.OpSpec`, which points back here. This
file knows nothing of tensors, models or measured rates. Open `Op` first, then `OPS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Axes = Mapping[str, int]

ELEMENT_BYTES: dict[str, int] = {"f32": 4, "bf16": 2, "f16": 2}
FLOATS: tuple[str, ...] = tuple(ELEMENT_BYTES)


@dataclass(frozen=True)
class Target:
    """A chip as a kernel sees it. `shared_bytes` is the most one block may ask for; `matrix` the kind of instruction that
    Triton 3.6 makes of a product of large 16-bit matrices: "mma", "wgmma", "tcgen05", or "" for plain multiply-adds."""

    capability: int  # 90 for sm_90
    shared_bytes: int
    matrix: str
    dtypes: tuple[str, ...] = FLOATS


TARGETS: dict[int, Target] = {
    target.capability: target
    for target in (
        Target(75, 64 * 1024, "", dtypes=("f32", "f16")),
        Target(80, 163 * 1024, "mma"),
        Target(86, 99 * 1024, "mma"),
        Target(89, 99 * 1024, "mma"),
        Target(90, 227 * 1024, "wgmma"),
        Target(100, 227 * 1024, "tcgen05"),
        Target(120, 99 * 1024, "mma"),
        Target(121, 99 * 1024, "mma"),
    )
}
"""The chips every kernel is compiled for. Shared memory per block: CUDA C++ Programming Guide, "Technical
Specifications per Compute Capability"."""


@dataclass(frozen=True)
class Op:
    """One op. `axes` maps each axis name to its meaning; the three functions take the axes' values and an element type.

    `read_bytes(axes, dtype)` and `write_bytes(axes, dtype)` are the least traffic with memory, each tensor touched once;
    `flops(axes)` counts a multiply-add as two. An op without a kernel of its own on some chip runs there in plain torch.
    """

    name: str
    axes: Mapping[str, str]
    read_bytes: Callable[[Axes, str], int]
    write_bytes: Callable[[Axes, str], int]
    flops: Callable[[Axes], int]
    dtypes: tuple[str, ...] = FLOATS
    chips: tuple[int, ...] = tuple(TARGETS)

    def total_bytes(self, axes: Axes, dtype: str) -> int:
        return self.read_bytes(axes, dtype) + self.write_bytes(axes, dtype)


def visible_pairs(queries: int, context: int, window: int) -> int:
    """(query, key) pairs one sequence computes: query i of `queries` sees context - queries + i + 1 keys, at most `window`
    of them where window is not 0."""
    full = min(queries, max(0, context - window + 1)) if window else 0
    rest = queries - full
    return full * window + rest * (context - queries + 1) + rest * (rest - 1) // 2


def visible_keys(queries: int, context: int, window: int) -> int:
    """Distinct keys that one sequence's queries see together."""
    return min(context, window + queries - 1) if window else context


def _size(axes: Axes, *names: str) -> int:
    total = 1
    for name in names:
        total *= axes[name]
    return total


_KV_AXES = {"K": "kv heads", "H": "head size"}
_PAGE_AXES = _KV_AXES | {"S": "tokens per page"}

OPS: dict[str, Op] = {
    op.name: op
    for op in (
        Op(
            "rms_norm",
            {"T": "rows", "D": "row size"},
            read_bytes=lambda a, d: _size(a, "T", "D") * ELEMENT_BYTES[d] + 4 * a["D"],
            write_bytes=lambda a, d: _size(a, "T", "D") * ELEMENT_BYTES[d],
            flops=lambda a: 4 * _size(a, "T", "D"),
        ),
        Op(
            "add_rms_norm",
            {"T": "rows", "D": "row size"},
            # The residual is float32: 4 bytes.
            read_bytes=lambda a, d: _size(a, "T", "D") * (ELEMENT_BYTES[d] + 4) + 4 * a["D"],
            write_bytes=lambda a, d: _size(a, "T", "D") * (ELEMENT_BYTES[d] + 4),
            flops=lambda a: 5 * _size(a, "T", "D"),
        ),
        Op(
            "rotate",
            {"T": "tokens", "N": "query heads"} | _KV_AXES | {"L": "rows of the table"},
            read_bytes=lambda a, d: a["T"] * ((a["N"] + a["K"]) * a["H"] * ELEMENT_BYTES[d] + 4 * a["H"] + 8),
            write_bytes=lambda a, d: a["T"] * (a["N"] + a["K"]) * a["H"] * ELEMENT_BYTES[d],
            flops=lambda a: 3 * a["T"] * (a["N"] + a["K"]) * a["H"],
        ),
        Op(
            "silu_mul",
            {"T": "tokens", "F": "ffn size"},
            read_bytes=lambda a, d: 2 * _size(a, "T", "F") * ELEMENT_BYTES[d],
            write_bytes=lambda a, d: _size(a, "T", "F") * ELEMENT_BYTES[d],
            flops=lambda a: 5 * _size(a, "T", "F"),
        ),
        Op(
            "gelu_tanh_mul",
            {"T": "tokens", "F": "ffn size"},
            read_bytes=lambda a, d: 2 * _size(a, "T", "F") * ELEMENT_BYTES[d],
            write_bytes=lambda a, d: _size(a, "T", "F") * ELEMENT_BYTES[d],
            flops=lambda a: 9 * _size(a, "T", "F"),
        ),
        Op(
            "write_kv",
            {"T": "tokens"} | _PAGE_AXES,
            read_bytes=lambda a, d: 2 * _size(a, "T", "K", "H") * ELEMENT_BYTES[d] + 8 * a["T"],
            write_bytes=lambda a, d: 2 * _size(a, "T", "K", "H") * ELEMENT_BYTES[d],
            flops=lambda a: 0,
        ),
        Op(
            "copy_pages",
            {"C": "caches", "M": "pages copied"} | _PAGE_AXES,
            read_bytes=lambda a, d: _size(a, "C", "M", "S", "K", "H") * ELEMENT_BYTES[d] + 16 * a["M"],
            write_bytes=lambda a, d: _size(a, "C", "M", "S", "K", "H") * ELEMENT_BYTES[d],
            flops=lambda a: 0,
        ),
        Op(
            "paged_attention",
            {"B": "sequences", "Q": "query tokens of each", "C": "keys its last query sees", "N": "query heads"}
            | _PAGE_AXES
            | {"W": "sliding window, 0 for none"},
            read_bytes=lambda a, d: (
                a["B"] * (a["Q"] * a["N"] + 2 * visible_keys(a["Q"], a["C"], a["W"]) * a["K"]) * a["H"] * ELEMENT_BYTES[d]
            ),
            write_bytes=lambda a, d: _size(a, "B", "Q", "N", "H") * ELEMENT_BYTES[d],
            flops=lambda a: 4 * a["B"] * visible_pairs(a["Q"], a["C"], a["W"]) * a["N"] * a["H"],
        ),
        *(
            Op(
                name,
                {"B": "sequences", "C": "keys each sees, the new one included", "N": "query heads"}
                | _PAGE_AXES
                | {"W": "sliding window, 0 for none"},
                read_bytes=lambda a, d: (
                    a["B"]
                    * ((a["N"] + 2 * a["K"]) + 2 * (visible_keys(1, a["C"], a["W"]) - 1) * a["K"])
                    * a["H"]
                    * ELEMENT_BYTES[d]
                ),
                write_bytes=lambda a, d: a["B"] * (a["N"] + 2 * a["K"]) * a["H"] * ELEMENT_BYTES[d],
                flops=lambda a: 4 * a["B"] * visible_keys(1, a["C"], a["W"]) * a["N"] * a["H"],
            )
            for name in ("decode_attention", "step_attention")
        ),
        Op(
            "norm_linear",
            {"T": "rows", "N": "outputs", "K": "inputs"},
            read_bytes=lambda a, d: _size(a, "N", "K") * ELEMENT_BYTES[d] + 4 * (_size(a, "T", "K") + a["K"]),
            write_bytes=lambda a, d: _size(a, "T", "N") * ELEMENT_BYTES[d],
            flops=lambda a: 2 * _size(a, "T", "N", "K") + 4 * _size(a, "T", "K"),
        ),
        Op(
            "project",
            {"T": "rows", "N": "outputs", "K": "inputs"},
            read_bytes=lambda a, d: (_size(a, "N", "K") + _size(a, "T", "K")) * ELEMENT_BYTES[d],
            write_bytes=lambda a, d: 4 * _size(a, "T", "N"),
            flops=lambda a: 2 * _size(a, "T", "N", "K"),
        ),
        Op(
            "norm_gated",
            {"T": "rows", "F": "ffn size", "K": "inputs"},
            read_bytes=lambda a, d: 2 * _size(a, "F", "K") * ELEMENT_BYTES[d] + 4 * (_size(a, "T", "K") + a["K"]),
            write_bytes=lambda a, d: _size(a, "T", "F") * ELEMENT_BYTES[d],
            flops=lambda a: 4 * _size(a, "T", "F", "K") + 4 * _size(a, "T", "K"),
        ),
        Op(
            "gated_linear",
            {"T": "rows", "F": "ffn size", "D": "model size"},
            read_bytes=lambda a, d: (2 * _size(a, "F", "D") + _size(a, "T", "D")) * ELEMENT_BYTES[d],
            write_bytes=lambda a, d: _size(a, "T", "F") * ELEMENT_BYTES[d],
            flops=lambda a: 4 * _size(a, "T", "F", "D"),
        ),
        Op(
            "linear_add",
            {"T": "rows", "N": "outputs", "K": "inputs"},
            read_bytes=lambda a, d: (_size(a, "N", "K") + _size(a, "T", "K")) * ELEMENT_BYTES[d] + 4 * _size(a, "T", "N"),
            write_bytes=lambda a, d: 4 * _size(a, "T", "N"),
            flops=lambda a: 2 * _size(a, "T", "N", "K"),
        ),
        Op(
            "gained_linear",
            {"T": "rows", "N": "outputs", "K": "inputs"},
            read_bytes=lambda a, d: (_size(a, "N", "K") + _size(a, "T", "K")) * ELEMENT_BYTES[d],
            write_bytes=lambda a, d: _size(a, "T", "N") * ELEMENT_BYTES[d],
            flops=lambda a: 2 * _size(a, "T", "N", "K"),
            dtypes=("bf16",),
            chips=(90,),
        ),
        Op(
            "gained_gated",
            {"T": "rows", "F": "ffn size", "K": "inputs"},
            read_bytes=lambda a, d: (2 * _size(a, "F", "K") + _size(a, "T", "K")) * ELEMENT_BYTES[d],
            write_bytes=lambda a, d: _size(a, "T", "F") * ELEMENT_BYTES[d],
            flops=lambda a: 4 * _size(a, "T", "F", "K"),
            dtypes=("bf16",),
            chips=(90,),
        ),
        Op(
            "gained_project",
            {"T": "rows", "N": "outputs", "K": "inputs"},
            read_bytes=lambda a, d: (_size(a, "N", "K") + _size(a, "T", "K")) * ELEMENT_BYTES[d],
            write_bytes=lambda a, d: 4 * _size(a, "T", "N"),
            flops=lambda a: 2 * _size(a, "T", "N", "K"),
            dtypes=("bf16",),
            chips=(90,),
        ),
        Op(
            "gained_choose",
            {"T": "rows", "N": "outputs", "K": "inputs"},
            read_bytes=lambda a, d: (_size(a, "N", "K") + _size(a, "T", "K")) * ELEMENT_BYTES[d],
            write_bytes=lambda a, d: 8 * a["T"],
            flops=lambda a: 2 * _size(a, "T", "N", "K"),
            dtypes=("bf16",),
            chips=(90,),
        ),
        Op(
            "add_gained",
            {"T": "rows", "N": "outputs", "K": "inputs"},
            read_bytes=lambda a, d: (
                (_size(a, "N", "K") + _size(a, "T", "K")) * ELEMENT_BYTES[d] + 4 * (_size(a, "T", "N") + a["N"])
            ),
            write_bytes=lambda a, d: _size(a, "T", "N") * (4 + ELEMENT_BYTES[d]) + 4 * a["T"],
            flops=lambda a: 2 * _size(a, "T", "N", "K") + 4 * _size(a, "T", "N"),
            dtypes=("bf16",),
            chips=(90,),
        ),
        Op(
            "sample",
            {"B": "rows", "V": "vocabulary"},
            read_bytes=lambda a, d: 4 * _size(a, "B", "V"),
            write_bytes=lambda a, d: 8 * a["B"],
            flops=lambda a: 2 * _size(a, "B", "V"),
            dtypes=("f32",),
        ),
        Op(
            "apply_mask",
            {"R": "rows of logits", "B": "rows that are masked", "V": "vocabulary"},
            # The least it must write depends on the mask; where little is allowed it is nearly all.
            read_bytes=lambda a, d: a["B"] * (4 * -(-a["V"] // 32) + 8),
            write_bytes=lambda a, d: 4 * _size(a, "B", "V"),
            flops=lambda a: 0,
            dtypes=("f32",),
        ),
        Op(
            "apply_penalties",
            {"B": "rows", "V": "vocabulary", "L": "history"},
            read_bytes=lambda a, d: _size(a, "B", "L") * (8 + 4) + 28 * a["B"],
            write_bytes=lambda a, d: 4 * _size(a, "B", "L"),
            flops=lambda a: 3 * _size(a, "B", "L"),
            dtypes=("f32",),
        ),
        Op(
            "begin_decode",
            {"B": "rows", "P": "pages of a row", "S": "tokens per page"},
            read_bytes=lambda a, d: a["B"] * (40 + 4 + 4 * a["P"]),
            write_bytes=lambda a, d: a["B"] * (68 + 4 * a["P"]),
            flops=lambda a: 0,
            dtypes=("f32",),
        ),
        Op(
            "end_decode",
            {"B": "rows"},
            read_bytes=lambda a, d: 24 * a["B"],
            write_bytes=lambda a, d: 8 * a["B"],
            flops=lambda a: 0,
            dtypes=("f32",),
        ),
        Op(
            "begin_prompt",
            {"T": "tokens", "P": "pages of the sequence", "S": "tokens per page"},
            read_bytes=lambda a, d: 56 + 4 * a["T"] + 4 * a["P"],
            write_bytes=lambda a, d: 24 * a["T"] + 4 * a["P"] + 64,
            flops=lambda a: 0,
            dtypes=("f32",),
        ),
        Op(
            "prepare_heads",
            {"T": "tokens", "N": "query heads"} | _PAGE_AXES | {"L": "rows of the table"},
            read_bytes=lambda a, d: a["T"] * ((a["N"] + 2 * a["K"]) * a["H"] * ELEMENT_BYTES[d] + 4 * a["H"] + 16),
            write_bytes=lambda a, d: a["T"] * (a["N"] + 2 * a["K"]) * a["H"] * ELEMENT_BYTES[d],
            flops=lambda a: 7 * a["T"] * (a["N"] + a["K"]) * a["H"],
        ),
        Op(
            "project_heads",
            {"T": "tokens", "D": "model size", "N": "query heads"} | _PAGE_AXES | {"L": "rows of the table"},
            read_bytes=lambda a, d: (
                (_size(a, "T", "D") + (a["N"] + 2 * a["K"]) * a["H"] * a["D"]) * ELEMENT_BYTES[d] + a["T"] * (4 * a["H"] + 16)
            ),
            write_bytes=lambda a, d: a["T"] * (a["N"] + 2 * a["K"]) * a["H"] * ELEMENT_BYTES[d],
            flops=lambda a: (2 * a["D"] * (a["N"] + 2 * a["K"]) + 7 * (a["N"] + a["K"])) * a["T"] * a["H"],
        ),
        Op(
            "invariant_linear",
            {"T": "rows", "N": "outputs", "K": "inputs"},
            read_bytes=lambda a, d: (_size(a, "N", "K") + _size(a, "T", "K")) * ELEMENT_BYTES[d],
            write_bytes=lambda a, d: _size(a, "T", "N") * ELEMENT_BYTES[d],
            flops=lambda a: 2 * _size(a, "T", "N", "K"),
        ),
        Op(
            "invariant_attention",
            {"B": "sequences", "Q": "query tokens of each", "C": "keys its last query sees", "N": "query heads"}
            | _PAGE_AXES
            | {"W": "sliding window, 0 for none"},
            read_bytes=lambda a, d: (
                a["B"] * (a["Q"] * a["N"] + 2 * visible_keys(a["Q"], a["C"], a["W"]) * a["K"]) * a["H"] * ELEMENT_BYTES[d]
            ),
            write_bytes=lambda a, d: _size(a, "B", "Q", "N", "H") * ELEMENT_BYTES[d],
            flops=lambda a: 4 * a["B"] * visible_pairs(a["Q"], a["C"], a["W"]) * a["N"] * a["H"],
        ),
    )
}
