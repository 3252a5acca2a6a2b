"""Triton kernels of sample.py: thresholds by bisection instead of sorting, then one pass that draws noise and picks.

A threshold is the largest number t for which enough tokens (top_k), or enough probability (top_p), have a logit of at least
t. Both counts only fall as t rises, so t is found two bits at a time over the float's bits in an order that integers
share: sixteen passes over a row that lies in the L2 cache, no sort, no scratch memory, and sums in a fixed order, so that
equal inputs give equal tokens. Open `sample` first.

B rows, V vocabulary, X tokens of a tile, Z parts a row is split into.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from redline.kernels import op, philox
from redline.kernels import sample as plain
from redline.kernels.op import ceil_div
from redline.kernels.philox_triton import uniform_lanes

GREEDY_BELOW = tl.constexpr(plain.GREEDY_BELOW)
LARGEST_FLOAT = tl.constexpr(3.4028234663852886e38)
MAX_PARTS = tl.constexpr(64)
PROGRAMS_PER_PROCESSOR = 2
THRESHOLD_BLOCK = 2048


def sample(logits_BV: Tensor, batch: plain.SampleBatch) -> Tensor:
    """See sample.sample. Launches one to three kernels; no synchronisation."""
    rows, vocab_size = logits_BV.shape
    assert logits_BV.dtype is torch.float32 and logits_BV.stride(1) == 1
    tokens_B = torch.empty(rows, dtype=torch.int64, device=logits_BV.device)
    threshold_B = torch.empty(rows, dtype=torch.float32, device=logits_BV.device)
    truncates = batch.truncates and not batch.all_greedy
    if truncates:
        _threshold[(rows,)](
            logits_BV,
            batch.temperature_B,
            batch.top_k_B,
            batch.top_p_B,
            batch.min_p_B,
            threshold_B,
            vocab_size,
            logits_BV.stride(0),
            BLOCK=THRESHOLD_BLOCK,
            num_warps=8,
        )
    tiles = ceil_div(vocab_size, philox.TILE)
    wanted = ceil_div(PROGRAMS_PER_PROCESSOR * op.device_of(logits_BV.device).processors, rows)
    part_tiles = ceil_div(tiles, min(tiles, wanted, MAX_PARTS.value))
    parts = ceil_div(tiles, part_tiles)
    score_BZ = torch.empty((rows, parts), dtype=torch.float32, device=logits_BV.device)
    token_BZ = torch.empty((rows, parts), dtype=torch.int64, device=logits_BV.device)
    _pick[(rows, parts)](
        logits_BV,
        batch.temperature_B,
        batch.seed_B,
        batch.position_B,
        threshold_B,
        score_BZ,
        token_BZ,
        vocab_size,
        logits_BV.stride(0),
        tiles,
        part_tiles,
        GREEDY=batch.all_greedy,
        TRUNCATED=truncates,
        LANE=philox.BLOCKS_PER_TILE,
        num_warps=4,
        **op.dependent_launch(logits_BV),
    )
    if parts == 1:
        return token_BZ.squeeze(1)
    _pick_part[(rows,)](score_BZ, token_BZ, tokens_B, parts, num_warps=1, **op.dependent_launch(logits_BV))
    return tokens_B


@triton.jit
def _load(row_V, v, vocab_size):
    """Logits with NaN as -inf, +inf as the largest float and no negative zero."""
    x = tl.load(row_V + v, mask=v < vocab_size, other=float("-inf"))
    return tl.where(x == x, tl.minimum(x, LARGEST_FLOAT), float("-inf")) + 0.0


@triton.jit
def _to_key(x):
    """uint32 in the order of the floats."""
    bits = x.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) | -0x80000000)).to(tl.uint32, bitcast=True)


@triton.jit
def _from_key(key):
    bits = tl.where(key >= 0x80000000, key ^ 0x80000000, key ^ 0xFFFFFFFF)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _weight(x, best, inverse_temperature, MASS: tl.constexpr):
    """What a token counts: its probability, up to a factor, or one."""
    if MASS:
        return tl.exp((x - best) * inverse_temperature)
    else:
        return (x == x).to(tl.float32)


@triton.jit
def _sum_above(row_V, vocab_size, key, best, inverse_temperature, BLOCK: tl.constexpr):
    """The probability, up to a factor, of all tokens whose key reaches `key`."""
    total_X = tl.zeros([BLOCK], tl.float32)
    for first in range(0, vocab_size, BLOCK):
        x = _load(row_V, first + tl.arange(0, BLOCK), vocab_size)
        total_X += tl.where(_to_key(x) >= key, _weight(x, best, inverse_temperature, True), 0.0)
    return tl.sum(total_X, 0)


@triton.jit
def _search(row_V, vocab_size, wanted, best, inverse_temperature, MASS: tl.constexpr, BLOCK: tl.constexpr):
    """The largest key such that the tokens reaching it weigh at least `wanted` together."""
    found = tl.full([], 0, tl.uint32)
    unit = tl.full([], 1 << 30, tl.uint32)
    for _ in range(16):
        one_X = tl.zeros([BLOCK], tl.float32)
        two_X = tl.zeros([BLOCK], tl.float32)
        three_X = tl.zeros([BLOCK], tl.float32)
        for first in range(0, vocab_size, BLOCK):
            v = first + tl.arange(0, BLOCK)
            x = _load(row_V, v, vocab_size)
            key = _to_key(x)
            weight = tl.where(v < vocab_size, _weight(x, best, inverse_temperature, MASS), 0.0)
            one_X += tl.where(key >= found + unit, weight, 0.0)
            two_X += tl.where(key >= found + 2 * unit, weight, 0.0)
            three_X += tl.where(key >= found + 3 * unit, weight, 0.0)
        enough = (tl.sum(one_X, 0) >= wanted).to(tl.uint32)
        enough += (tl.sum(two_X, 0) >= wanted).to(tl.uint32)
        enough += (tl.sum(three_X, 0) >= wanted).to(tl.uint32)
        found += enough * unit
        unit = unit >> 2
    return found


@triton.jit(do_not_specialize=["vocab_size"])
def _threshold(
    logits_BV,
    temperature_B,
    top_k_B,
    top_p_B,
    min_p_B,
    threshold_B,
    vocab_size,
    stride,
    BLOCK: tl.constexpr,
):
    """The lowest logit that top_k, top_p and min_p keep; -inf for a greedy row."""
    b = tl.program_id(0)
    row_V = logits_BV + b.to(tl.int64) * stride
    temperature = tl.load(temperature_B + b)
    if temperature < GREEDY_BELOW:
        tl.store(threshold_B + b, float("-inf"))
        return
    inverse_temperature = 1.0 / temperature
    best_X = tl.full([BLOCK], float("-inf"), tl.float32)
    for first in range(0, vocab_size, BLOCK):
        best_X = tl.maximum(best_X, _load(row_V, first + tl.arange(0, BLOCK), vocab_size))
    best = tl.max(best_X, 0)
    top_k = tl.load(top_k_B + b)
    top_p = tl.load(top_p_B + b)
    key = tl.full([], 0, tl.uint32)
    if (top_k > 0) & (top_k < vocab_size):
        key = _search(row_V, vocab_size, top_k.to(tl.float32), best, inverse_temperature, False, BLOCK)
    threshold = tl.where(key == 0, float("-inf"), _from_key(key))
    if top_p < 1.0:
        wanted = top_p * _sum_above(row_V, vocab_size, key, best, inverse_temperature, BLOCK)
        threshold = _from_key(_search(row_V, vocab_size, wanted, best, inverse_temperature, True, BLOCK))
    min_p = tl.load(min_p_B + b)
    if min_p > 0.0:
        threshold = tl.maximum(threshold, best + temperature * tl.log(min_p))
    tl.store(threshold_B + b, threshold)


@triton.jit
def _gumbel(u):
    """-log(-log(1 - u)), with the inner logarithm as its series where 1 - u would round u away."""
    series = u * (1.0 + u * (0.5 + u * (0.3333333333333333 + u * 0.25)))
    return -tl.log(tl.where(u < 0.01, series, -tl.log(1.0 - u)))


@triton.jit
def _consider(best_X, token_X, row_V, v, vocab_size, threshold, scale, noise_X, TRUNCATED: tl.constexpr):
    """Take the tokens `v` where they score higher than what the lane holds."""
    x = _load(row_V, v, vocab_size)
    score_X = x * scale + noise_X
    if TRUNCATED:
        score_X = tl.where(x >= threshold, score_X, float("-inf"))
    better_X = score_X > best_X
    return tl.where(better_X, score_X, best_X), tl.where(better_X, v, token_X)


@triton.jit(do_not_specialize=["vocab_size", "tiles", "part_tiles"])
def _pick(
    logits_BV,
    temperature_B,
    seed_B,
    position_B,
    threshold_B,
    score_BZ,
    token_BZ,
    vocab_size,
    stride,
    tiles,
    part_tiles,
    GREEDY: tl.constexpr,
    TRUNCATED: tl.constexpr,
    LANE: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """The best scaled and noised logit of one part of a row, and the lowest token that has it."""
    if DEPENDENT:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    b = tl.program_id(0)
    part = tl.program_id(1)
    row_V = logits_BV + b.to(tl.int64) * stride
    scale = 1.0
    noise_scale = 0.0
    threshold = float("-inf")
    if not GREEDY:
        temperature = tl.load(temperature_B + b)
        if temperature >= GREEDY_BELOW:
            scale = 1.0 / temperature
            noise_scale = 1.0
        seed = tl.load(seed_B + b)
        position = tl.load(position_B + b)
    if TRUNCATED:
        threshold = tl.load(threshold_B + b)
    best_X = tl.full([LANE], float("-inf"), tl.float32)
    token_X = tl.zeros([LANE], tl.int32)
    for tile in range(part * part_tiles, tl.minimum(tiles, (part + 1) * part_tiles)):
        v = tl.arange(0, LANE) + tile * (4 * LANE)
        u0 = tl.zeros([LANE], tl.float32)
        u1, u2, u3 = u0, u0, u0
        if not GREEDY:
            u0, u1, u2, u3 = uniform_lanes(seed, position, tile, LANE)
            u0 = _gumbel(u0) * noise_scale
            u1 = _gumbel(u1) * noise_scale
            u2 = _gumbel(u2) * noise_scale
            u3 = _gumbel(u3) * noise_scale
        best_X, token_X = _consider(best_X, token_X, row_V, v, vocab_size, threshold, scale, u0, TRUNCATED)
        v += LANE
        best_X, token_X = _consider(best_X, token_X, row_V, v, vocab_size, threshold, scale, u1, TRUNCATED)
        v += LANE
        best_X, token_X = _consider(best_X, token_X, row_V, v, vocab_size, threshold, scale, u2, TRUNCATED)
        v += LANE
        best_X, token_X = _consider(best_X, token_X, row_V, v, vocab_size, threshold, scale, u3, TRUNCATED)
    best = tl.max(best_X, 0)
    token = tl.min(tl.where(best_X == best, token_X, 0x7FFFFFFF), 0)
    place = b * tl.num_programs(1) + part
    tl.store(score_BZ + place, best)
    tl.store(token_BZ + place, token.to(tl.int64))


@triton.jit(do_not_specialize=["parts"])
def _pick_part(score_BZ, token_BZ, tokens_B, parts, DEPENDENT: tl.constexpr):
    """The best part of each row; of equal ones the first, which holds the lowest tokens."""
    if DEPENDENT:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    b = tl.program_id(0)
    z = tl.arange(0, MAX_PARTS)
    score_Z = tl.load(score_BZ + b * parts + z, mask=z < parts, other=float("-inf"))
    token_Z = tl.load(token_BZ + b * parts + z, mask=z < parts, other=0x7FFFFFFF)
    best = tl.max(score_Z, 0)
    tl.store(tokens_B + b, tl.min(tl.where(score_Z == best, token_Z, 0x7FFFFFFF), 0))
