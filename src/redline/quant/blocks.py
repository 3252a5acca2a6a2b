"""The block formats of GGUF: from packed bytes to float32, vectorised, one function a format.

Every decoder takes `raw_NB` (uint8, N blocks of B bytes, any device) and `out_NW` (float32, N blocks of W weights) and fills
`out_NW`. Products of scales and codes have at most 24 significant bits, so they are exact in float32 and the results equal
the reference's bit for bit. Layouts: GGUF's, written out at each decoder; source: ggml's quantisation reference. Knows nothing of
files or models. Open `q4_0` first; `DECODERS` is the table.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Decoder = Callable[[Tensor, Tensor], None]

_IQ4_CODES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def _half(raw_NB: Tensor, at: int) -> Tensor:
    """The float16 at byte `at` of each block, as float32 [N, 1]."""
    return raw_NB[:, at : at + 2].view(torch.float16).float()


def _nibbles(bytes_NB: Tensor, out_NW: Tensor) -> Tensor:
    """Write the low halves of B bytes, then their high halves, to out_NW with W = 2 B. Returns `out_NW`."""
    half = bytes_NB.shape[1]
    out_NW[:, :half] = bytes_NB & 15
    out_NW[:, half:] = bytes_NB >> 4
    return out_NW


def _bit_planes(bytes_NB: Tensor, width: int) -> Tensor:
    """Split each byte into 8 / width codes: [N, 8 / width, B], lowest bits first."""
    shifts = torch.arange(0, 8, width, dtype=torch.uint8, device=bytes_NB.device).view(1, -1, 1)
    return (bytes_NB.unsqueeze(1) >> shifts) & (2**width - 1)


def q4_0(raw_NB: Tensor, out_NW: Tensor) -> None:
    """f16 d, 16 bytes of two codes (low: 0 to 15, high: 16 to 31). w = d (q - 8)."""
    _nibbles(raw_NB[:, 2:], out_NW).sub_(8).mul_(_half(raw_NB, 0))


def q4_1(raw_NB: Tensor, out_NW: Tensor) -> None:
    """f16 d, f16 m, 16 bytes as q4_0. w = d q + m."""
    _nibbles(raw_NB[:, 4:], out_NW).mul_(_half(raw_NB, 0)).add_(_half(raw_NB, 2))


def _five_bits(raw_NB: Tensor, at: int, out_NW: Tensor) -> Tensor:
    """32 high bits from byte `at`, then 16 bytes as q4_0: codes 0 to 31. Returns `out_NW`."""
    shifts = torch.arange(8, dtype=torch.uint8, device=raw_NB.device)
    high_NW = ((raw_NB[:, at : at + 4].unsqueeze(2) >> shifts) & 1).view(-1, 32) << 4
    low = raw_NB[:, at + 4 :]
    out_NW[:, :16] = (low & 15) | high_NW[:, :16]
    out_NW[:, 16:] = (low >> 4) | high_NW[:, 16:]
    return out_NW


def q5_0(raw_NB: Tensor, out_NW: Tensor) -> None:
    """f16 d, 32 high bits, 16 bytes of low halves. w = d (q - 16)."""
    _five_bits(raw_NB, 2, out_NW).sub_(16).mul_(_half(raw_NB, 0))


def q5_1(raw_NB: Tensor, out_NW: Tensor) -> None:
    """f16 d, f16 m, 32 high bits, 16 bytes of low halves. w = d q + m."""
    _five_bits(raw_NB, 4, out_NW).mul_(_half(raw_NB, 0)).add_(_half(raw_NB, 2))


def q8_0(raw_NB: Tensor, out_NW: Tensor) -> None:
    """f16 d, 32 int8. w = d q."""
    out_NW.copy_(raw_NB[:, 2:].view(torch.int8)).mul_(_half(raw_NB, 0))


def iq4_nl(raw_NB: Tensor, out_NW: Tensor) -> None:
    """f16 d, 16 bytes as q4_0 of indices into a table of 16. w = d table[q]."""
    table = torch.tensor(_IQ4_CODES, dtype=torch.float32, device=raw_NB.device)
    codes = raw_NB[:, 2:]
    out_NW[:, :16] = table[(codes & 15).int()]
    out_NW[:, 16:] = table[(codes >> 4).int()]
    out_NW.mul_(_half(raw_NB, 0))


def q2_k(raw_NB: Tensor, out_NW: Tensor) -> None:
    """16 bytes (4-bit scale, 4-bit minimum) of 16 weights each, 64 bytes of 2-bit codes, f16 d, f16 dmin.

    Weights 128 h + 32 j + i (h of 2 halves, j of 4) are bits 2 j of byte 32 h + i. w = d scale q - dmin minimum.
    """
    scales = raw_NB[:, :16]
    out = out_NW.view(-1, 2, 4, 32)
    out.copy_(_bit_planes(raw_NB[:, 16:80].reshape(-1, 32), 2).view(-1, 2, 4, 32))
    scale = (_half(raw_NB, 80) * (scales & 15)).unsqueeze(2)
    minimum = (_half(raw_NB, 82) * (scales >> 4)).unsqueeze(2)
    out_NW.view(-1, 16, 16).mul_(scale).sub_(minimum)


def q3_k(raw_NB: Tensor, out_NW: Tensor) -> None:
    """32 bytes of high bits, 64 bytes of 2-bit codes as q2_k, 12 bytes of sixteen 6-bit scales, f16 d.

    High bits: weight 32 j + i is bit j of byte i, and a missing one subtracts 4. Scales: bytes 0 to 7 hold the low halves of
    scales 0 to 7, then of 8 to 15; bytes 8 to 11 the high two bits of scales j, 4 + j, 8 + j, 12 + j. w = d (scale - 32) q.
    """
    low = _bit_planes(raw_NB[:, 32:96].reshape(-1, 32), 2).view(-1, 8, 32)
    high = _bit_planes(raw_NB[:, :32], 1)
    out_NW.view(-1, 8, 32).copy_(low | (high << 2)).sub_(4)
    scales = torch.cat([raw_NB[:, 96:104] & 15, raw_NB[:, 96:104] >> 4], dim=1)
    scales |= _bit_planes(raw_NB[:, 104:108], 2).reshape(-1, 16) << 4
    scale = _half(raw_NB, 108) * (scales.float() - 32)
    out_NW.view(-1, 16, 16).mul_(scale.unsqueeze(2))


def _scales_and_minima(raw_NB: Tensor) -> tuple[Tensor, Tensor]:
    """d times eight 6-bit scales and dmin times eight 6-bit minima, float32 [N, 8, 1] each, of q4_k and q5_k.

    f16 d, f16 dmin, then 12 bytes: 0 to 3 scales 0 to 3 (low six bits) and the top two bits of scales 4 to 7; 4 to 7 the same of
    the minima; 8 to 11 the low halves of scales 4 to 7 (low) and of minima 4 to 7 (high).
    """
    first, second, third = raw_NB[:, 4:8], raw_NB[:, 8:12], raw_NB[:, 12:16]
    scales = torch.cat([first & 63, (third & 15) | ((first >> 2) & 48)], dim=1)
    minima = torch.cat([second & 63, (third >> 4) | ((second >> 2) & 48)], dim=1)
    return (_half(raw_NB, 0) * scales).unsqueeze(2), (_half(raw_NB, 2) * minima).unsqueeze(2)


def q4_k(raw_NB: Tensor, out_NW: Tensor) -> None:
    """Scales and minima, then 128 bytes: byte 32 i + j holds weights 64 i + j (low) and 64 i + 32 + j (high).

    w = d scale q - dmin minimum.
    """
    scale, minimum = _scales_and_minima(raw_NB)
    _nibbles(raw_NB[:, 16:].reshape(-1, 32), out_NW.view(-1, 64))
    out_NW.view(-1, 8, 32).mul_(scale).sub_(minimum)


def q5_k(raw_NB: Tensor, out_NW: Tensor) -> None:
    """As q4_k with 32 bytes of high bits before the codes: bit j of byte i belongs to weight 32 j + i."""
    scale, minimum = _scales_and_minima(raw_NB)
    out = out_NW.view(-1, 8, 32)
    low = _bit_planes(raw_NB[:, 48:].reshape(-1, 32), 4).view(-1, 8, 32)
    out.copy_(low | (_bit_planes(raw_NB[:, 16:48], 1) << 4)).mul_(scale).sub_(minimum)


def q6_k(raw_NB: Tensor, out_NW: Tensor) -> None:
    """128 bytes of low halves, 64 bytes of high two bits, 16 int8 scales, f16 d.

    Of each half h: low halves of weights 128 h + 0 to 63 (low) and 64 to 127 (high); bits 2 j of high byte 32 h + i belong to
    weight 128 h + 32 j + i. w = d scale (q - 32).
    """
    low = _bit_planes(raw_NB[:, :128].reshape(-1, 64), 4).view(-1, 8, 32)
    high = _bit_planes(raw_NB[:, 128:192].reshape(-1, 32), 2).view(-1, 8, 32)
    scale = (_half(raw_NB, 208) * raw_NB[:, 192:208].view(torch.int8)).unsqueeze(2)
    out_NW.view(-1, 8, 32).copy_(low | (high << 4)).sub_(32)
    out_NW.view(-1, 16, 16).mul_(scale)


DECODERS: dict[str, Decoder] = {
    decoder.__name__: decoder for decoder in (q4_0, q4_1, q5_0, q5_1, q8_0, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl)
}
