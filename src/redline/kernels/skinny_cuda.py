"""Hopper's kernels of skinny.py for few rows: the launcher of cuda/skinny.cu.

How a kernel cuts its work (`Form`) is chosen by `form_for`. Open `launch`. T rows, K inputs, N outputs.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch

from redline.kernels.cuda.compiler import machine_code
from redline.kernels.cuda.launcher import Kernel, gated_map, tensor_map
from redline.kernels.op import ceil_div
from redline.kernels.product import CHOOSE, GATED, STORE, STORE_FLOAT, Product

PADDED_ROWS = (8, 16, 32, 64, 96, 128)
SHARED_BYTES = 226 * 1024  # of a block: all there is, but 1024 bytes in which stages may have to begin later
STAGED_ROW_BYTES = 272  # a warpgroup's outputs of one row


@dataclass(frozen=True)
class Form:
    """How a kernel cuts its work: rows it is padded to, 64-row and 64-input blocks of a tile of weights, tiles on their way into
    shared memory, blocks that share a tile's inputs."""

    rows: int
    blocks: int
    depth: int
    stages: int
    cluster: int = 1

    @property
    def stage_bytes(self) -> int:
        return self.depth * 128 * (64 * self.blocks + self.rows)

    @property
    def groups(self) -> int:
        """Warpgroups that multiply."""
        return max(2, self.blocks) if self.rows > 64 else 1

    @property
    def own_rows(self) -> int:
        """Of a warpgroup, which has all rows of its outputs or shares the only ones with another."""
        return self.rows // 2 if self.groups > self.blocks else self.rows

    @property
    def chunk(self) -> int:
        """Rows that a warpgroup finishes at a time."""
        return 8 if self.own_rows % 16 or self.cluster > 2 else 16

    @property
    def exchanged_bytes(self) -> int:
        """What the blocks of a cluster send to one of them: sums of the chunks that it finishes."""
        own_chunks = ceil_div(self.own_rows // self.chunk, self.cluster)
        return (self.cluster - 1) * own_chunks * self.chunk // 2 * 128 * self.groups * 4

    @property
    def other_bytes(self) -> int:
        """Of shared memory beside stages: what is exchanged and finished, roots, choices and barriers."""
        return self.exchanged_bytes + self.groups * self.chunk * STAGED_ROW_BYTES + 12 * self.rows + 512

    @property
    def blocks_per_processor(self) -> int:
        return max(1, 220 * 1024 // (self.stages * self.stage_bytes))

    def tiles(self, kind: int, outputs: int) -> int:
        return ceil_div(outputs, (32 if kind == GATED else 64) * self.blocks)

    @property
    def threads(self) -> int:
        return 128 * self.groups + 32 + (96 if self.rows > 64 else max(32, self.rows))


@functools.cache
def form_for(kind: int, outputs: int, inputs: int, rows: int, processors: int) -> Form:
    """As measured on an H200 inside chains of layers (docs/log.md): deep tiles, as many on their way as fit."""
    padded = next(size for size in PADDED_ROWS if size >= rows)
    if kind in (STORE_FLOAT, CHOOSE):
        blocks, cluster = 3 if padded >= 128 else 1, 1
    else:
        blocks, cluster = _cut(kind, outputs, inputs, padded, processors)
    deepest = 4 if padded <= 32 and cluster < 3 else 2 if padded <= 128 and blocks == 1 else 1
    depth = next(d for d in (deepest, 2, 1) if d == 1 or cluster <= inputs // (64 * d) and inputs % (64 * d) == 0)
    form = Form(padded, blocks, depth, 1, cluster)
    return replace(form, stages=min(24, (SHARED_BYTES - form.other_bytes) // form.stage_bytes))


def _cut(kind: int, outputs: int, inputs: int, padded: int, processors: int) -> tuple[int, int]:
    """(blocks of a tile, blocks that share its inputs) of the cut that leaves the busiest processor the least to do. A cost is what its
    shared memory moves, in rows of 64 inputs: tiles of weights and of X are written there, and each warpgroup reads what it
    multiplies. With few rows that is proportional to the weights it reads."""
    costs = {}
    for blocks in (1, 2, 3) if 64 < padded <= 128 else (1,):
        weights, x = 64 * blocks, padded
        read = 2 * 64 + x if blocks == 1 and padded > 64 else weights + blocks * x
        tiles = Form(padded, blocks, 1, 1).tiles(kind, outputs)
        for cluster in (1, 2, 3):
            # Processors come in groups that clusters of three do not fill: 42 and not 44 of them were reckoned to run at once on an
            # H200's 132 (four-block clusters: 30 of 33, as the driver says), and as large a share is taken elsewhere.
            room = processors if cluster < 3 else processors * 42 // 44
            fits = tiles * cluster <= room and blocks * cluster <= 4 and cluster <= ceil_div(inputs, 64)
            # A gated layer has tiles enough, and few rows are read too fast for the sums to be worth joining.
            if cluster > 1 and (not fits or kind == GATED or (kind == STORE and padded <= 16)):
                continue
            flat = 1.2 if blocks > 1 else 1.0  # shallow tiles: memory is slower
            costs[blocks, cluster] = flat * (weights + x + read) * ceil_div(tiles * cluster, processors) / cluster
    return min(costs, key=lambda cut: costs[cut])


def definitions(form: Form, kind: int, whole: bool, *, scaled: bool, biased: bool, gelu: bool) -> dict[str, int]:
    """What cuda/skinny.cu is compiled with. `whole`: a row's outputs are whole groups of eight, which are read and written at once."""
    cut = {"ROWS": form.rows, "BLOCKS": form.blocks, "DEPTH": form.depth, "STAGES": form.stages, "CLUSTER": form.cluster}
    return cut | {"KIND": kind, "WHOLE": int(whole), "SCALED": int(scaled), "BIASED": int(biased), "GELU": int(gelu)}


@functools.cache
def _kernel(form: Form, kind: int, whole: bool, scaled: bool, biased: bool, gelu: bool, device: torch.device) -> Kernel:
    code = machine_code("skinny.cu", definitions(form, kind, whole, scaled=scaled, biased=biased, gelu=gelu))
    with torch.cuda.device(device):
        return Kernel(code, "skinny", threads=form.threads, shared_bytes=form.stages * form.stage_bytes + 1024)


def form_of(product: Product) -> Form:
    """How `launch` cuts it."""
    return form_for(product.kind, product.outputs, product.inputs, product.rows, product.processors)


def launch(product: Product) -> None:
    """Queue one kernel."""
    form = form_of(product)
    tiles = form.tiles(product.kind, product.outputs)
    blocks = tiles * form.cluster if form.cluster > 1 else min(tiles, form.blocks_per_processor * product.processors)
    maps = [
        gated_map(product.weight_NK) if product.kind == GATED else tensor_map(product.weight_NK, 64),
        tensor_map(product.x_TK, product.rows),
    ]
    kernel = _kernel(form, product.kind, product.outputs % 8 == 0, **product.traits, device=product.device)
    kernel.launch(blocks, [*maps, product.arguments], dependent=True, cluster=form.cluster)
