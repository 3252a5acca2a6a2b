"""From a `Packed` record to a tensor: plain formats, block formats, and random weights made from a name.

Works through large tensors in pieces that stay near the cores of a CPU, or fill a GPU, so the only large allocation is the
result. Several threads may unpack several tensors. Knows nothing of models: what a tensor is for shows only in the values of
random ones. Open `unpack` first.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from redline.checkpoint.packed import Array, Packed
from redline.errors import UnsupportedModel
from redline.formats import FORMATS, Format
from redline.quant.blocks import DECODERS

# Weights of a piece. On a CPU: so many that two threads with a tensor each seldom meet between operations (135 M weights of Q4_1 in
# 0.38 s, with an eighth of it in 0.97 s), so few that temporaries stay in its caches. Call with one thread of torch's, as `models.load`
# does: more share every operation, and on a busy machine they wait for each other (24 s instead of 1 s, measured).
_CPU_PIECE = 1 << 18
_GPU_PIECE = 1 << 24

_PLAIN = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}

_RANDOM_STD = 0.02
_RANDOM_NORM_STD = 0.1


def unpack(packed: Packed, dtype: torch.dtype, device: torch.device | str = "cpu", *, seed: int = 0) -> Tensor:
    """The tensor `packed` holds, of its logical shape, as `dtype` on `device`; contiguous, owning its memory.

    Exact in float32. `seed` counts for format "random" alone: normal with deviation 0.02, norm weights 1 + 0.1 normal; the values
    depend on the seed, the name, the shape and the kind of device. Raises UnsupportedModel for a format that has no decoder.
    """
    out = torch.empty(packed.shape, dtype=dtype, device=device)
    unpack_into(packed, out, seed=seed)
    return out


def unpack_into(packed: Packed, out: Tensor, *, seed: int = 0) -> None:
    """As `unpack`, into `out`: contiguous, of the logical shape. Its device and type decide."""
    assert out.shape == packed.shape and out.is_contiguous(), f"{packed.name}: {tuple(out.shape)} for {packed.shape}"
    if packed.format == "random":
        _fill_random(packed.name, out, seed)
        return
    format = FORMATS[packed.format]
    flat = out.view(-1)
    done = 0
    for piece in _pieces(packed.data, format, _CPU_PIECE if out.device.type == "cpu" else _GPU_PIECE):
        raw = torch.from_numpy(piece).to(out.device)
        weights = piece.nbytes // format.block_bytes * format.block
        decode(raw, format, flat[done : done + weights])
        done += weights
    assert done == out.numel(), f"{packed.name}: {done} weights for {packed.shape}"


def plain_dtype(format: Format) -> torch.dtype | None:
    """The type of a plain format's elements, which need no decoding; None for block formats."""
    return _PLAIN.get(format.name)


def decode(raw: Tensor, format: Format, out: Tensor) -> None:
    """Write the weights whose bytes are `raw` (flat, whole blocks, aligned to elements) to `out` (flat, contiguous).

    Both lie on one device, and nothing waits for it. Raises UnsupportedModel for a format that has no decoder.
    """
    if dtype := plain_dtype(format):
        out.copy_(raw.view(dtype))
        return
    decoder = DECODERS.get(format.name)
    if decoder is None:
        raise UnsupportedModel(f"format {format.name} cannot be unpacked")
    direct = out.dtype == torch.float32
    weights = out if direct else torch.empty(out.shape, dtype=torch.float32, device=out.device)
    decoder(raw.view(-1, format.block_bytes), weights.view(-1, format.block))
    if not direct:
        out.copy_(weights)


def _pieces(data: Array, format: Format, weights: int) -> Iterator[Array]:
    """`data` in row-major order as flat copies of about `weights` weights, whole blocks each.

    Copies, as the file's map is read-only and a permuted view is not contiguous; the cut is made along the first axis that
    is long enough, so that a view of any strides needs no copy of its own.
    """
    data = np.atleast_1d(data)
    items = max(1, weights * format.block_bytes // format.block // data.itemsize)
    per_row = max(1, data.size // max(1, data.shape[0]))
    if data.ndim > 1 and per_row > items:
        for row in data:
            yield from _pieces(row, format, weights)
        return
    unit = format.block_bytes if data.ndim == 1 and not format.plain else 1
    rows = max(1, items // per_row // unit) * unit
    for start in range(0, data.shape[0], rows):
        yield np.array(data[start : start + rows], order="C").reshape(-1)


def _fill_random(name: str, out: Tensor, seed: int) -> None:
    """Normal values from a generator seeded with `seed` and the name."""
    # One 32-bit number: the CPU's generator looks at no more of its seed.
    generator = torch.Generator(out.device).manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    module = name.rpartition(".")[0].rpartition(".")[2]
    if "norm" in module:
        out.normal_(1.0, _RANDOM_NORM_STD, generator=generator)
    else:
        out.normal_(0.0, _RANDOM_STD, generator=generator)
