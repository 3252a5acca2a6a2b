"""Rotary position embedding: the table of cosines and sines of every kind of rope scaling.

One table per model (two where sliding layers rotate otherwise) is made at start and read by position. Angles are
computed in float32, position times inverse frequency, as the models were trained. Knows nothing of attention.

Two kinds depend on the length of the running text: `dynamic` (its base grows) and `longrope` (another set of factors).
Keys in the cache are stored rotated and shared between sequences, so one table must serve all lengths: the one for
`max_len`, the longest context that was configured. Up to the original context both equal the usual per-length
definition when `max_len` is within it; beyond, they are the definition at `max_len` for every position.

Open `cos_sin_table` first. Shapes: L positions, H head size, C pairs (H / 2).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from redline.shapes import RopeShape


def cos_sin_table(rope: RopeShape, head_size: int, max_len: int, device: torch.device) -> Tensor:
    """[max_len, head_size] float32: the cosines of a position's pairs, then their sines."""
    inverse_C = inverse_frequencies(rope, head_size, max_len)
    if rope.freq_factors:
        inverse_C = inverse_C / torch.tensor(rope.freq_factors, dtype=torch.float32)
    angles_LC = torch.arange(max_len, dtype=torch.float32)[:, None] * inverse_C
    scale = attention_factor(rope)
    return torch.cat((angles_LC.cos() * scale, angles_LC.sin() * scale), dim=1).to(device)


def inverse_frequencies(rope: RopeShape, head_size: int, max_len: int) -> Tensor:
    """Radians per position of each pair, float32 [C], before `freq_factors`."""
    plain_C = _plain(rope.theta, head_size)
    if rope.kind == "default":
        return plain_C
    if rope.kind == "linear":  # https://kaiokendev.github.io/til
        return plain_C / rope.factor
    if rope.kind == "dynamic":
        return _plain(_dynamic_theta(rope, head_size, max_len), head_size)
    if rope.kind == "llama3":
        return _llama3(rope, plain_C)
    if rope.kind == "yarn":
        return _yarn(rope, head_size)
    factors = rope.long_factor if max_len > rope.original_max_position else rope.short_factor  # longrope, arXiv:2402.13753
    exponents_C = torch.arange(0, head_size, 2).float() / head_size
    return 1.0 / (torch.tensor(factors, dtype=torch.float32) * rope.theta**exponents_C)


def attention_factor(rope: RopeShape) -> float:
    """What cosines and sines are multiplied by (yarn: arXiv:2309.00071, equation 22; longrope: section 3.4)."""
    if rope.kind not in ("yarn", "longrope"):
        return 1.0
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.factor <= 1.0:
        return 1.0
    if rope.kind == "longrope":
        return math.sqrt(1.0 + math.log(rope.factor) / math.log(rope.original_max_position))
    if rope.mscale and rope.mscale_all_dim:
        return _yarn_scale(rope.factor, rope.mscale) / _yarn_scale(rope.factor, rope.mscale_all_dim)
    return _yarn_scale(rope.factor, 1.0)


def _plain(theta: float, head_size: int) -> Tensor:
    return 1.0 / (theta ** (torch.arange(0, head_size, 2).float() / head_size))


def _dynamic_theta(rope: RopeShape, head_size: int, max_len: int) -> float:
    """NTK-aware scaling at the longest context (the per-length formula, with `max_len` for the length)."""
    length = max(max_len, rope.original_max_position)
    stretch = rope.factor * length / rope.original_max_position - (rope.factor - 1.0)
    return float(rope.theta * stretch ** (head_size / (head_size - 2)))


def _llama3(rope: RopeShape, plain_C: Tensor) -> Tensor:
    """Long wavelengths are divided by the factor, short ones kept, those between blended (Llama 3.1's rule)."""
    wavelength_C = 2 * math.pi / plain_C
    turns_C = rope.original_max_position / wavelength_C
    blend_C = (turns_C - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    between_C = (1 - blend_C) * plain_C / rope.factor + blend_C * plain_C
    scaled_C = torch.where(wavelength_C > rope.original_max_position / rope.low_freq_factor, plain_C / rope.factor, between_C)
    return torch.where(wavelength_C < rope.original_max_position / rope.high_freq_factor, plain_C, scaled_C)


def _yarn_scale(factor: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0


def _yarn(rope: RopeShape, head_size: int) -> Tensor:
    """Pairs that turn often are kept, slow ones divided by the factor, with a ramp between (arXiv:2309.00071, 3.2)."""

    def pair_that_turns(times: float) -> float:
        return head_size * math.log(rope.original_max_position / (times * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = pair_that_turns(rope.beta_fast), pair_that_turns(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_size - 1)
    if low == high:
        high += 0.001  # the ramp must not divide by zero
    slow_C = ((torch.arange(head_size // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    power_C = rope.theta ** (torch.arange(0, head_size, 2).float() / head_size)
    return (1.0 / (rope.factor * power_C)) * slow_C + (1.0 / power_C) * (1 - slow_C)
