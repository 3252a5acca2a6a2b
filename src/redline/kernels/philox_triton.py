"""The Triton twin of philox.py: the same bits, by the generator that Triton brings. Open `uniform_lanes` first."""

from __future__ import annotations

import triton
import triton.language as tl

from redline.kernels import philox

ROUNDS = tl.constexpr(philox.ROUNDS)
LARGEST = tl.constexpr(philox.LARGEST)


@triton.jit
def uniform_lanes(seed, position, tile, LANE: tl.constexpr):
    """The uniform numbers of the 4 * LANE tokens of tile `tile`, as four runs of LANE tokens, in order.

    `seed` and `position` are int64 scalars, LANE is philox.BLOCKS_PER_TILE.
    """
    block = (tl.arange(0, LANE) + tile * LANE).to(tl.uint32)
    zero = block * 0
    low = zero + (position & 0xFFFFFFFF).to(tl.uint32)
    high = zero + ((position >> 32) & 0xFFFFFFFF).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox(seed, block, low, high, zero, ROUNDS)
    return to_uniform(w0), to_uniform(w1), to_uniform(w2), to_uniform(w3)


@triton.jit
def to_uniform(word):
    """float32 in (0, 1) of a uint32 word."""
    return tl.minimum((word.to(tl.float32) + 0.5) * 2.3283064365386963e-10, LARGEST)
