"""Loads machine code and launches it on the current stream, through the driver: `Kernel`; and tensor maps for bulk copies.

A launch under stream capture becomes a node of the graph, its dependence on the kernel before a programmatic edge where
`dependent` says so. Knows nothing of what a kernel computes. Open `Kernel` first.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import torch
from cuda.bindings import driver
from torch import Tensor

from redline.errors import InternalError

Argument = ctypes.Structure | ctypes.Array[Any]


class Kernel:
    """One function of a cubin on one device."""

    def __init__(self, code: bytes, name: str, *, threads: int, shared_bytes: int = 0, shared_percent: int | None = None):
        """`shared_bytes`: dynamic shared memory of a block. `shared_percent`: how much of a processor's memory is to be shared while the kernel runs,
        where the driver's choice is no good (0 to 100 of the most; the rest is level-1 cache). The device must be current."""
        torch.cuda.current_stream()  # makes torch's context exist
        self._module = _checked(driver.cuModuleLoadData(code))
        self._function = _checked(driver.cuModuleGetFunction(self._module, name.encode()))
        self._threads, self._shared_bytes = threads, shared_bytes
        self._configs: dict[tuple[int, bool, int], driver.CUlaunchConfig] = {}
        largest = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        _checked(driver.cuFuncSetAttribute(self._function, largest, shared_bytes))
        if shared_percent is not None:
            carveout = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT
            _checked(driver.cuFuncSetAttribute(self._function, carveout, shared_percent))

    def launch(self, blocks: int, arguments: Sequence[Argument], *, dependent: bool, cluster: int = 1) -> None:
        """Queue `blocks` blocks, in clusters of `cluster`. `dependent`: they may start before the kernel before has ended,
        and wait for it themselves."""
        config = self._config(blocks, dependent, cluster)
        config.hStream = torch.cuda.current_stream().cuda_stream
        pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(argument) for argument in arguments))
        _checked(driver.cuLaunchKernelEx(config, self._function, ctypes.addressof(pointers), 0))

    def _config(self, blocks: int, dependent: bool, cluster: int) -> driver.CUlaunchConfig:
        """Kept: making one takes longer than the rest of a launch. Only one thread launches a kernel."""
        if (kept := self._configs.get((blocks, dependent, cluster))) is not None:
            return kept
        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = blocks, 1, 1
        config.blockDimX, config.blockDimY, config.blockDimZ = self._threads, 1, 1
        config.sharedMemBytes = self._shared_bytes
        attributes = [_dependent()] if dependent else []
        if cluster > 1:
            attributes.append(_cluster(cluster))
        if attributes:
            config.attrs, config.numAttrs = attributes, len(attributes)
        self._configs[blocks, dependent, cluster] = config
        return config


def tensor_map(matrix: Tensor, box_rows: int) -> Argument:
    """A map of a bf16 matrix [rows, columns], contiguous, for copies of boxes [box_rows, 64], swizzled by 128 bytes. What lies
    outside the matrix is read as zero. Columns must be a multiple of 8."""
    rows, columns = matrix.shape
    return _encode(matrix, [columns, rows], [columns], [64, box_rows])


def gated_map(matrix: Tensor) -> Argument:
    """A map of a bf16 matrix [2 F, columns] of F gate rows and F value rows, for copies of boxes [4, 2, 8, 64]: eight gate rows,
    their value rows, the next eight gate rows, and so on. F and the columns must be multiples of 8."""
    half, columns = matrix.shape[0] // 2, matrix.shape[1]
    assert half % 8 == 0
    return _encode(matrix, [columns, 8, 2, half // 8], [columns, half * columns, 8 * columns], [64, 8, 2, 4])


def grouped_map(matrix: Tensor, box_rows: int) -> Argument:
    """A map of a bf16 matrix [rows, columns] for copies of boxes [box_rows, 64] whose rows come in the order that cuda/many_rows.cu wants: of 16
    rows, 8 h + 2 q + e of a box is 4 q + 2 h + e of the matrix. Rows must be a multiple of 16, columns of 8."""
    rows, columns = matrix.shape
    assert rows % 16 == 0 and box_rows % 16 == 0
    sizes, strides = [columns, 2, 4, 2, rows // 16], [columns, 4 * columns, 2 * columns, 16 * columns]
    return _encode(matrix, sizes, strides, [64, 2, 4, 2, box_rows // 16])


def heads_map(heads_RNH: Tensor, heads: int, rows: int) -> Argument:
    """A map of bf16 heads [R, N, H], for copies of boxes [rows, heads, 64]: the rows of a box lie one after another, each with its heads."""
    rows_R, count, size = heads_RNH.shape
    return _encode(heads_RNH.view(rows_R, -1), [size, count, rows_R], [size, count * size], [64, heads, rows])


def cache_map(cache: Tensor, tokens: int, heads: int) -> Argument:
    """A map of keys or values [pages, tokens of a page, heads, size] in bf16, seen as 128-byte pieces, for copies of boxes
    [pieces of `heads` heads, tokens, 64]. The size must be a multiple of 64."""
    columns, slots = cache.shape[2] * cache.shape[3], cache.shape[0] * cache.shape[1]
    box = [64, tokens, heads * cache.shape[3] // 64]
    return _encode(cache.view(slots, columns), [64, slots, columns // 64], [columns, 64], box)


def _encode(matrix: Tensor, sizes: list[int], strides: list[int], box: list[int]) -> Argument:
    """The driver's map of `matrix`, seen with these sizes (innermost first), strides between elements and boxes."""
    assert matrix.is_contiguous() and matrix.dtype is torch.bfloat16 and matrix.shape[1] % 8 == 0 and matrix.data_ptr() % 16 == 0
    return _map(matrix.data_ptr(), tuple(sizes), tuple(strides), tuple(box))


@functools.lru_cache(maxsize=1 << 14)
def _map(address: int, sizes: tuple[int, ...], strides: tuple[int, ...], box: tuple[int, ...]) -> Argument:
    """Kept: it says no more than where a matrix of some size lies, and tensors of steps come back to the same places.

    Nothing is fetched beside what is asked for: with promotion to 256 bytes, the usual choice, products of few rows take a
    twentieth longer and attention reaches 0.89 of the read rate instead of 0.95 (H200)."""
    encoded = _checked(
        driver.cuTensorMapEncodeTiled(
            driver.CUtensorMapDataType.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            len(sizes),
            address,
            [driver.cuuint64_t(size) for size in sizes],
            [driver.cuuint64_t(2 * stride) for stride in strides],
            [driver.cuuint32_t(size) for size in box],
            [driver.cuuint32_t(1)] * len(sizes),
            driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
            driver.CUtensorMapSwizzle.CU_TENSOR_MAP_SWIZZLE_128B,
            driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_NONE,
            driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    )
    return (ctypes.c_ubyte * 128).from_buffer_copy(ctypes.string_at(encoded.getPtr(), 128))


@functools.cache
def _dependent() -> driver.CUlaunchAttribute:
    attribute = driver.CUlaunchAttribute()
    attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
    attribute.value.programmaticStreamSerializationAllowed = 1
    return attribute


@functools.cache
def _cluster(size: int) -> driver.CUlaunchAttribute:
    attribute = driver.CUlaunchAttribute()
    attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
    dimension = attribute.value.clusterDim
    dimension.x, dimension.y, dimension.z = size, 1, 1
    return attribute


def _checked(answer: tuple[Any, ...]) -> Any:
    """The result of a driver's call. Raises InternalError."""
    error, *rest = answer
    if error != driver.CUresult.CUDA_SUCCESS:
        raise InternalError(f"the CUDA driver answered {error.name}")
    return rest[0] if rest else None
