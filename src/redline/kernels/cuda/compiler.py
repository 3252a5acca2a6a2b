"""Compiles the CUDA C++ of this folder with NVRTC, which every CUDA build of torch brings, and keeps the machine code on disk.

A kernel is compiled per set of definitions (`-D`), once on a machine: the file's name is a hash of all that went into it.
Knows nothing of devices or tensors. Open `machine_code` first.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

from redline import env
from redline.errors import InternalError

_INCLUDE = re.compile(r'^#include "([a-z_]+\.cuh)"$', re.MULTILINE)  # a file of this folder: the compiler sees no folder
ARCHITECTURE = "sm_90a"  # wgmma and its relatives exist on this one alone


def machine_code(source: str, definitions: Mapping[str, int]) -> bytes:
    """The cubin of `source` (a file of this folder) with `definitions`. Raises InternalError with the compiler's words."""
    text, options = prepared(source, definitions)
    kept = _kept(source, text, options)
    try:
        return kept.read_bytes()
    except OSError:
        pass
    code, _ = compile_text(text, source, options)
    _keep(kept, code)
    return code


def compile_ahead(source: str, wanted: Iterable[Mapping[str, int]]) -> None:
    """Keep the machine code of `source` with each of these definitions, so that nothing waits for it later. Several are compiled at a time: the compiler lets
    go of Python's lock."""
    different = {tuple(sorted(definitions.items())) for definitions in wanted}
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda definitions: machine_code(source, dict(definitions)), sorted(different)))


def prepared(source: str, definitions: Mapping[str, int]) -> tuple[str, list[str]]:
    """`source` with what it includes, behind the instructions it is written in and the product that its rows need; and the
    compiler's options."""
    folder = resources.files(__package__)
    body = _INCLUDE.sub(lambda match: folder.joinpath(match[1]).read_text(), folder.joinpath(source).read_text())
    parts = [folder.joinpath("hopper.cuh").read_text()]
    if "multiply(sums" in body:
        parts.append(product(_columns(definitions)))
    if "weigh(sums" in body:
        parts.append(product_of_registers(definitions["SIZE"]))
    defined = [f"-D{name}={value}" for name, value in definitions.items()]
    return "\n".join([*parts, body]), [f"--gpu-architecture={ARCHITECTURE}", "-std=c++17", *defined]


def _columns(definitions: Mapping[str, int]) -> int:
    """Of one product: the rows of X where weights are on the left (skinny.cu), else those of a tile of weights (many_rows.cu)."""
    if "COLS" in definitions:
        return definitions["COLS"]
    rows = definitions["ROWS"]
    return rows // 2 if rows > 64 and definitions["BLOCKS"] == 1 else rows


def product(columns: int) -> str:
    """`multiply`: sums += w x for 64 rows of w and `columns` columns of x, 16 deep, both described in shared memory (PTX's
    wgmma.m64nNk16). Without `accumulate` the sums begin at zero."""
    count = columns // 2
    sums = ", ".join(f"%{i}" for i in range(count))
    outputs = ", ".join(f'"+f"(sums[{i}])' for i in range(count))
    return (
        "__device__ __forceinline__ void multiply(float* sums, u64 w, u64 x, bool accumulate) {\n"
        f'    asm volatile("{{.reg .pred p; setp.ne.b32 p, %{count + 2}, 0; "\n'
        f'        "wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.bf16.bf16 {{{sums}}}, %{count}, %{count + 1}, p, 1, 1, 0, 0;}}"\n'
        f'        : {outputs} : "l"(w), "l"(x), "r"((int)accumulate));\n'
        "}\n"
    )


def product_of_registers(columns: int) -> str:
    """`weigh`: sums += w x as above, where w is a thread's four words of 64 rows and 16 columns, and x is read across its rows of 16 x `columns`."""
    count = columns // 2
    sums = ", ".join(f"%{i}" for i in range(count))
    outputs = ", ".join(f'"+f"(sums[{i}])' for i in range(count))
    words = ", ".join(f"%{count + i}" for i in range(4))
    return (
        "__device__ __forceinline__ void weigh(float* sums, const u32* w, u64 x, bool accumulate) {\n"
        f'    asm volatile("{{.reg .pred p; setp.ne.b32 p, %{count + 5}, 0; "\n'
        f'        "wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.bf16.bf16 {{{sums}}}, {{{words}}}, %{count + 4}, p, 1, 1, 1;}}"\n'
        f'        : {outputs} : "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]), "l"(x), "r"((int)accumulate));\n'
        "}\n"
    )


def compile_text(text: str, name: str, options: list[str]) -> tuple[bytes, str]:
    """The cubin of CUDA C++ `text` and what the compiler said; `name` is for messages."""
    from cuda.bindings import nvrtc

    result, program = nvrtc.nvrtcCreateProgram(text.encode(), name.encode(), 0, [], [])
    _check(result)
    try:
        (result,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        _, size = nvrtc.nvrtcGetProgramLogSize(program)
        words = _room(size)
        nvrtc.nvrtcGetProgramLog(program, words)
        log = words.decode(errors="replace").strip("\0 \n")
        if result != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise InternalError(f"{name} does not compile: {log}")
        result, size = nvrtc.nvrtcGetCUBINSize(program)
        _check(result)
        code = _room(size)
        (result,) = nvrtc.nvrtcGetCUBIN(program, code)
        _check(result)
        return code, log
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _room(size: int) -> bytes:
    """Bytes for the compiler to write to. Two at least: of each single byte Python has one object for the whole process, and what is
    written to that changes every b" " there is."""
    return bytes(max(2, size))


def _check(result: object) -> None:
    from cuda.bindings import nvrtc

    if result != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise InternalError(f"the CUDA compiler failed: {result}")


def _kept(source: str, text: str, options: list[str]) -> Path:
    from cuda.bindings import nvrtc

    _, major, minor = nvrtc.nvrtcVersion()
    key = hashlib.sha256("\n".join([text, *options, f"{major}.{minor}"]).encode()).hexdigest()[:32]
    return env.cache_dir() / "kernels" / f"{Path(source).stem}-{key}.cubin"


def _keep(path: Path, code: bytes) -> None:
    """Written whole or not at all; a cache that cannot be written is no fault."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_bytes(code)
        partial.replace(path)
    except OSError:
        return
