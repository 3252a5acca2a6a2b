"""A kernel that writes down what philox_triton draws, for the tests that compare it with the torch twin."""

from __future__ import annotations

import triton
import triton.language as tl

from redline.kernels.philox_triton import uniform_lanes


@triton.jit
def write_tile(out, seed_B, position_B, tile, LANE: tl.constexpr):
    b = tl.program_id(0)
    u0, u1, u2, u3 = uniform_lanes(tl.load(seed_B + b), tl.load(position_B + b), tile, LANE)
    place = out + b * 4 * LANE + tl.arange(0, LANE)
    tl.store(place, u0)
    tl.store(place + LANE, u1)
    tl.store(place + 2 * LANE, u2)
    tl.store(place + 3 * LANE, u3)
