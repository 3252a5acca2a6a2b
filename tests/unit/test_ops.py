"""Costs of ops: closed forms against counting."""

from __future__ import annotations

import pytest

from redline.ops import OPS, TARGETS, visible_keys, visible_pairs


@pytest.mark.parametrize("window", [0, 1, 3, 8, 20])
@pytest.mark.parametrize(("queries", "context"), [(1, 1), (1, 12), (5, 5), (5, 12), (12, 12)])
def test_visible_pairs_and_keys_count_what_a_loop_counts(queries: int, context: int, window: int) -> None:
    seen = [
        (i, key)
        for i in range(queries)
        for key in range(context)
        for position in [context - queries + i]
        if key <= position and (window == 0 or key > position - window)
    ]
    assert visible_pairs(queries, context, window) == len(seen)
    assert visible_keys(queries, context, window) == len({key for _, key in seen})


def test_decode_attention_reads_the_cache_once() -> None:
    axes = {"B": 2, "Q": 1, "C": 1000, "N": 32, "K": 8, "H": 128, "S": 16, "W": 0}
    op = OPS["paged_attention"]
    assert op.read_bytes(axes, "bf16") == 2 * (2 * 1000 * 8 * 128 * 2 + 32 * 128 * 2)
    assert op.flops(axes) == 2 * 4 * 1000 * 32 * 128


def test_every_op_names_known_chips_and_its_axes_suffice() -> None:
    for op in OPS.values():
        assert set(op.chips) <= set(TARGETS)
        axes = dict.fromkeys(op.axes, 8)
        for dtype in op.dtypes:
            assert op.total_bytes(axes, dtype) > 0 and op.flops(axes) >= 0
