"""A whole decode step in one launch (cuda/step.cu): `Step`, made once for a number of rows and a cache, launched every step.

Knows no layers: it is told matrices and pointers, op after op. Open `Step` first. B rows, D model size, V vocabulary.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from redline.kernels import decode_attention_cuda, skinny_cuda
from redline.kernels.cuda.compiler import machine_code
from redline.kernels.cuda.launcher import Kernel, gated_map, tensor_map
from redline.kernels.heads import HeadPreparation
from redline.kernels.op import ceil_div
from redline.kernels.ragged import Ragged
from redline.kernels.skinny import Gained
from redline.kernels.skinny_cuda import ADD, GATED, STORE, STORE_FLOAT, Order

ATTEND = 4
MOST_ROWS = 16
MOST_HEAD = 128  # larger ones leave no room for weights
DEPTH = 4  # 64-input blocks of a tile
TILES = 2  # of keys on their way to a warp
SHARED_BYTES = 232_448  # a block's on sm_90
LEAST_INPUTS = 2 * 64 * DEPTH  # each block of a pair needs a tile of every op


class _Op(ctypes.Structure):
    _fields_ = [
        ("weight", ctypes.c_ubyte * 128),
        ("input", ctypes.c_ubyte * 128),
        *((name, ctypes.c_void_p) for name in ("squares", "bias", "output", "stream", "gain", "squares_out")),
        *((name, ctypes.c_void_p) for name in ("k_cache", "v_cache", "q_norm", "k_norm")),
        *((name, ctypes.c_int) for name in ("kind", "outputs", "steps", "tiles", "first", "parts")),
        ("inverse_size", ctypes.c_float),
        ("eps", ctypes.c_float),
        ("padding", ctypes.c_ubyte * 16),  # to a multiple of the maps' alignment
    ]


class _Arguments(ctypes.Structure):
    _fields_ = [
        ("ops", ctypes.c_void_p),
        ("done", ctypes.c_void_p),
        ("attend", decode_attention_cuda.Arguments),
        ("num_ops", ctypes.c_int),
        ("rows", ctypes.c_int),
        ("gelu", ctypes.c_int),
    ]


@dataclass(frozen=True)
class LayerParts:
    """What a step needs of one layer. `after_attention` and `after_ffn` are the weights of the norms that follow, float32 [D]."""

    qkv_NK: Tensor
    qkv_bias_N: Tensor | None
    out_NK: Tensor
    out_bias_N: Tensor | None
    gate_up_NK: Tensor
    down_NK: Tensor
    down_bias_N: Tensor | None
    after_attention_D: Tensor
    after_ffn_D: Tensor
    heads: HeadPreparation
    k_cache_PSKH: Tensor
    v_cache_PSKH: Tensor


@functools.cache
def _kernel(rows: int, head: int, group: int, page: int, normed: bool, device: torch.device) -> Kernel:
    tiles_bytes = decode_attention_cuda.WARPS * TILES * 2 * 16 * (head + 8) * 2
    stage_bytes = DEPTH * 128 * (64 + rows)
    own_bytes = 7_552 + 36 * head + 264 * max(0, group - 4)  # its variables, as the compiler reports them
    stages = (SHARED_BYTES - own_bytes - 1024 - tiles_bytes) // stage_bytes
    definitions = {"ROWS": rows, "DEPTH": DEPTH, "STAGES": stages, "TILES": TILES}
    definitions |= {"HEAD": head, "GROUP": group, "PAGE": page, "NORMED": int(normed)}
    with torch.cuda.device(device):
        return Kernel(
            machine_code("step.cu", definitions), "step", threads=224, shared_bytes=stages * stage_bytes + tiles_bytes + 1024
        )


@dataclass
class Step:
    """One step's buffers and list of ops on the device. Make it outside of a capture; `logits` may be captured."""

    rows: int
    eps: float
    head_VD: Tensor
    gelu: bool
    layers: Sequence[LayerParts]
    _ops: list[_Op] = field(default_factory=list, init=False)
    _kept: list[Tensor] = field(default_factory=list, init=False)
    _first: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        layer, device = self.layers[0], self.head_VD.device
        _, self._page, self._kv_heads, self._head = layer.k_cache_PSKH.shape
        self._heads = layer.out_NK.shape[1] // self._head
        group = self._heads // self._kv_heads
        padded = 8 if self.rows <= 8 else 16
        self._kernel = _kernel(padded, self._head, group, self._page, layer.heads.q_norm_H is not None, device)
        self._clusters = self._kernel.most_clusters(2)
        size = layer.qkv_NK.shape[1]
        self._padded = padded
        self._gained = self._empty(size)
        self._stream = self._empty(size, torch.float32)
        self._squares = self._empty(1, torch.float32).view(1, self.rows)
        self._qkv, self._heads_out = self._empty(layer.qkv_NK.shape[0]), self._empty(layer.out_NK.shape[1])
        self._inner = self._empty(layer.down_NK.shape[1])
        self._sums = torch.empty((ceil_div(size, 64), self.rows), dtype=torch.float32, device=device)
        self._logits = self._empty(self.head_VD.shape[0], torch.float32)
        for number, part in enumerate(self.layers):
            self._add_layer(part, first=number == 0)
        self._linear(STORE_FLOAT, self._gained, self.head_VD, self._logits, squares=self._sums)
        table = torch.frombuffer(bytearray(b"".join(bytes(op) for op in self._ops)), dtype=torch.uint8)
        self._table = table.to(device)
        self._done = torch.zeros(len(self._ops), dtype=torch.int32, device=device)

    def logits(
        self, tokens_B: Tensor, embedding_VD: Tensor, scale: float, gain_D: Tensor, ragged: Ragged, attend_scale: float
    ) -> Tensor:
        """float32 [B, V], overwritten by the next call; writes the new tokens' keys and values."""
        begun = skinny_cuda.Begun(self._stream, Gained(self._gained, self._squares, self.eps), self._done)
        order = skinny_cuda.begin(tokens_B, embedding_VD, scale, gain_D, ragged.context_B, self._kv_heads, begun)
        attend = self._attend(ragged, order, attend_scale)
        arguments = _Arguments(self._table.data_ptr(), self._done.data_ptr(), attend, len(self._ops), self.rows, int(self.gelu))
        self._kernel.launch(2 * self._clusters, [arguments], dependent=True)
        return self._logits

    def _attend(self, ragged: Ragged, order: Order, scale: float) -> decode_attention_cuda.Arguments:
        layer = self.layers[0]
        return decode_attention_cuda.arguments(
            self._qkv, layer.k_cache_PSKH, layer.v_cache_PSKH, ragged, layer.heads, scale, order, self._heads_out
        )[0]

    def _add_layer(self, part: LayerParts, *, first: bool) -> None:
        squares = self._squares if first else self._sums
        self._linear(STORE, self._gained, part.qkv_NK, self._qkv, squares=squares, bias_N=part.qkv_bias_N)
        op = _Op(kind=ATTEND, k_cache=part.k_cache_PSKH.data_ptr(), v_cache=part.v_cache_PSKH.data_ptr(), eps=part.heads.eps)
        if part.heads.q_norm_H is not None and part.heads.k_norm_H is not None:
            op.q_norm, op.k_norm = part.heads.q_norm_H.data_ptr(), part.heads.k_norm_H.data_ptr()
        self._ops.append(op)
        self._linear(ADD, self._heads_out, part.out_NK, self._gained, gain_N=part.after_attention_D, bias_N=part.out_bias_N)
        self._linear(GATED, self._gained, part.gate_up_NK, self._inner, squares=self._sums)
        self._linear(ADD, self._inner, part.down_NK, self._gained, gain_N=part.after_ffn_D, bias_N=part.down_bias_N)

    def _linear(
        self,
        kind: int,
        x_BK: Tensor,
        weight_NK: Tensor,
        output_BN: Tensor,
        *,
        squares: Tensor | None = None,
        gain_N: Tensor | None = None,
        bias_N: Tensor | None = None,
    ) -> None:
        inputs, outputs = weight_NK.shape[1], output_BN.shape[1]
        tiles = ceil_div(outputs, 32 if kind == GATED else 64)
        op = _Op(
            weight=gated_map(weight_NK) if kind == GATED else tensor_map(weight_NK, 64),
            input=tensor_map(x_BK, self._padded),
            output=output_BN.data_ptr(),
            kind=kind,
            outputs=outputs,
            steps=ceil_div(inputs, 64 * DEPTH),
            tiles=tiles,
            first=self._first,
            inverse_size=1.0 / inputs,
            eps=self.eps,
        )
        if squares is not None:
            op.squares, op.parts = squares.data_ptr(), len(squares)
        if gain_N is not None:
            op.gain, op.stream, op.squares_out = gain_N.data_ptr(), self._stream.data_ptr(), self._sums.data_ptr()
        if bias_N is not None:
            op.bias = bias_N.data_ptr()
        self._first = (self._first + tiles) % self._clusters
        self._ops.append(op)

    def _empty(self, columns: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.empty((self.rows, columns), dtype=dtype, device=self.head_VD.device)
